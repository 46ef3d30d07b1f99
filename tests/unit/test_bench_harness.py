"""The parts that every benchmark stands on: figures, processes, and the client's judgement of an answer."""

import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

import pytest
from harness import load, processes, report, systems
from harness.processes import Failed, Process
from harness.report import Target

WHOLE = b'data: {"content":" token0@1000"}\n\ndata: {"content":" token1@2000"}\n\ndata: [DONE]\n\n'


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _answer(*parts: bytes, status: int = 200) -> load.Answer:
    answer = load.Answer(started=0, status=status)
    for part in parts:
        answer.take(part)
    return answer


def test_medians_are_of_the_rounds_that_have_the_figure() -> None:
    assert report.medians([{"a": 1, "b": 5}, {"a": 9}, {"a": 2}]) == {"a": 2, "b": 5}


def test_each_round_begins_with_another() -> None:
    order = "".join(name for _, name in report.interleaved(3, "abc"))
    assert order == "abcbcacab"


def test_what_was_not_measured_has_no_ratio() -> None:
    assert (report.ratio(6, 3), report.ratio(None, 3), report.ratio(3, 0)) == (2, None, None)
    assert (report.difference(6, 4), report.difference(6, None)) == (2, None)


@pytest.mark.parametrize(("figure", "reached"), [(19.9, False), (20.0, True), (None, False)])
def test_a_target_is_reached(figure: float | None, reached: bool) -> None:
    assert Target("rps", ">=", 20).reached({"rps": figure}) is reached


def test_a_table_is_aligned_markdown() -> None:
    assert report.table(["name", "n"], [["a", 1234.5], ["bcdef", None]]).splitlines() == [
        "| name  | n     |",
        "| ----- | ----- |",
        "| a     | 1,234 |",
        "| bcdef | -     |",
    ]


def test_the_last_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    report.finish("gateway", {"rps": 123.456789, "none": None}, [Target("rps", ">=", 20)], {"direct": {"rps": 1}})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "benchmark": "gateway",
        "rps": 123.46,
        "none": None,
        "detail": {"direct": {"rps": 1}},
    }


def test_a_process_is_weighed_and_stopped_with_its_children(tmp_path: Path) -> None:
    program = "sleep 60 & sleep 60 & : > started; wait"
    with Process(["sh", "-c", f"cd {tmp_path}; {program}"], log=tmp_path / "log") as process:
        process.wait_until((tmp_path / "started").exists, timeout=30)
        family = processes.tree(process.pid)
        assert len(family) == 3
        with processes.peak_rss(process) as peak:
            assert process.rss_mb() > 0
        assert peak.mb > 0
    assert not any(map(_alive, family))


def test_children_that_ignore_the_end_are_stopped_too(tmp_path: Path) -> None:
    program = "(trap '' TERM; touch started; while :; do sleep 60; done) & wait"
    with Process(["sh", "-c", f"cd {tmp_path}; {program}"], log=tmp_path / "log") as process:
        process.wait_until((tmp_path / "started").exists, timeout=30)
        family = processes.tree(process.pid)
    assert not any(map(_alive, family))


def test_a_process_is_pinned(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0), flush=True); input()"
    with Process([sys.executable, "-c", code], log=tmp_path / "log", cores={core}) as process:
        with pytest.raises(Failed):  # input() meets the end of stdin, and the program ends
            process.wait_until(lambda: False, timeout=30)
        assert process.tail().splitlines()[0] == str({core})


def test_waiting_for_a_program_that_ended_says_what_it_printed(tmp_path: Path) -> None:
    with (
        Process(["sh", "-c", "echo no such port; exit 3"], log=tmp_path / "log") as process,
        pytest.raises(Failed, match=r"(?s)ended with 3.*no such port"),
    ):
        process.wait_until(lambda: False, timeout=30)


def test_a_free_port_can_be_bound() -> None:
    import socket

    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", processes.free_port()))


def test_a_whole_answer_has_no_fault() -> None:
    answer = _answer(WHOLE[:20], WHOLE[20:])
    answer.judge(2)
    assert (answer.fault, answer.events) == ("", 3)


@pytest.mark.parametrize(
    ("parts", "status", "fault"),
    [
        ([WHOLE[:-8]], 200, "no [DONE]"),
        ([WHOLE[WHOLE.index(b"data", 1) :]], 200, "1 token events, not 2"),
        ([b"busy"], 503, "status 503: b'busy'"),
        ([], 200, "no [DONE]"),
    ],
)
def test_an_answer_that_is_not_whole_says_why(parts: list[bytes], status: int, fault: str) -> None:
    answer = _answer(*parts, status=status)
    answer.judge(2)
    assert answer.fault.startswith(fault)


def test_delays_belong_to_the_read_that_completed_the_event() -> None:
    answer = _answer(WHOLE[:30], WHOLE[30:])  # the first stamp ends at 30
    answer.times = [5000, 7000]
    assert answer.delays() == [4000, 5000]


def test_streams_at_once() -> None:
    assert load.at_once([(0, 10), (5, 15), (10, 20)]) == 2
    assert load.at_once([]) == 0


def test_figures_of_nothing_are_no_error() -> None:
    bad = load.Answer(started=0, fault="refused")
    assert load.figures([bad])["bad"] == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="the engine of the benchmarks runs on node")
def test_streams_of_the_engine_come_whole_and_stamped(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    with systems.running_engine(tmp_path, None) as engine:
        engine.set(tokens=5, gap_ms=1, stamp=True)
        taken = systems.load(engine.server, "--concurrency", 3, "--answers", 2, "--tokens", 5, cores=cores)
    assert (taken["answers"], taken["bad"]) == (6, 0)
    assert 0 < taken["delay_p50_ms"] < 1000
