"""The arrays that come with a plan: found, checked to be finite, and checked to fit."""

from collections.abc import Mapping, Sequence

from terascope.core.errors import BadRequest
from terascope.core.words import suggestion
from terascope.internals import packing
from terascope.internals.arrays import Array
from terascope.internals.places import at
from terascope.internals.reductions import Activation, SparseAutoencoder
from terascope.protocol.traces import ArrayData, ArrayValue, AutoencoderFields, Numbers, TraceRequest


class Arrays:
    """The named arrays of a request, and those that stand in its operations. All are finite floats."""

    def __init__(self, named: Mapping[str, Array]) -> None:
        self._named = named

    @classmethod
    def of(cls, request: TraceRequest) -> "Arrays":
        """Read `arrays` and `safetensors`. Raises `BadRequest`."""
        found = {}
        for name, value in request.arrays.items():
            with at("arrays", name):
                found[name] = _read(value)
        if request.safetensors is not None:
            with at("safetensors"):
                file = packing.decode_base64(request.safetensors)
                more, _ = packing.unpack(file)
                found |= {name: _checked(one) for name, one in more.items()}
        return cls(found)

    def get(self, value: ArrayValue) -> Array:
        """The array that `value` is or names. Raises `BadRequest`."""
        if not isinstance(value, str):
            return _read(value)
        if value not in self._named:
            raise BadRequest(f"there is no array `{value[:80]}` in `arrays`{suggestion(value, self._named)}")
        return self._named[value]

    def shaped(self, field: str, value: ArrayValue | None, *wanted: int) -> Array | None:
        """The array, which must have the sides `wanted`; a 0 among them stands for any. None stays None."""
        if value is None:
            return None
        with at(field):
            one = self.get(value)
            check_shape(one, wanted)
            return one

    def vectors(self, field: str, value: ArrayValue, width: int) -> Array:
        """One vector or several, of that width (0: any), as [n, width]."""
        with at(field):
            one = self.get(value)
            if len(one.shape) == 1:
                one = Array(one.dtype, (1, *one.shape), one.data)
            check_shape(one, (0, width))
            return one

    def broadcast(self, value: ArrayValue, wanted: Sequence[int]) -> Array:
        """The array, which must broadcast to the sides `wanted`; a 0 among them stands for any."""
        one = self.get(value)
        sides = zip(reversed(one.shape), reversed(wanted), strict=False)
        if len(one.shape) > len(wanted) or any(want and side not in (1, want) for side, want in sides):
            raise BadRequest(f"the array has the shape {list(one.shape)}, which does not broadcast to {_shown(wanted)}")
        return one

    def autoencoder(self, fields: AutoencoderFields, width: int) -> SparseAutoencoder:
        """The sparse autoencoder for a site of that width (0: any). Raises `BadRequest` when its parts do not fit."""
        with at("autoencoder"):
            with at("encoder"):
                encoder = self.get(fields.encoder)
                check_shape(encoder, (width, 0))
            width, features = encoder.shape
            activation = Activation(fields.activation)
            if (fields.threshold is None) is (activation is Activation.JUMP_RELU):
                raise BadRequest("`threshold` and the activation `jump_relu` go together")
            if (fields.k is None) is (activation is Activation.TOP_K):
                raise BadRequest("`k` and the activation `top_k` go together")
            return SparseAutoencoder(
                encoder=encoder,
                encoder_bias=self.shaped("encoder_bias", fields.encoder_bias, features),
                decoder=self.shaped("decoder", fields.decoder, features, width),
                decoder_bias=self.shaped("decoder_bias", fields.decoder_bias, width),
                threshold=self.shaped("threshold", fields.threshold, features),
                activation=activation,
                k=min(fields.k or 0, features),
                center=fields.center,
            )


def check_shape(one: Array, wanted: Sequence[int]) -> None:
    """Raise `BadRequest` unless the array's sides are those, where 0 stands for any."""
    fits = [want in (0, side) for want, side in zip(wanted, one.shape, strict=False)]
    if len(one.shape) != len(wanted) or not all(fits):
        raise BadRequest(f"the array has the shape {list(one.shape)}; it must be {_shown(wanted)}")


def _shown(sides: Sequence[int]) -> str:
    return f"[{', '.join(str(side or 'any') for side in sides)}]"


def _read(value: Numbers | ArrayData) -> Array:
    if isinstance(value, ArrayData):
        return _checked(packing.decode(value.dtype, value.shape, value.data))
    return Array.of(value)


def _checked(one: Array) -> Array:
    if not one.dtype.is_float:
        raise BadRequest(f"the array is of type {one.dtype}; send floats")
    if not one.elements:
        raise BadRequest(f"the array has the shape {list(one.shape)}, which has no element")
    if not one.is_finite():
        raise BadRequest("the array has elements that are NaN or infinite")
    return one
