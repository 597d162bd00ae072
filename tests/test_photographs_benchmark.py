"""The corpus of photographs: tiles are cut in place, a test photograph is nowhere else, and the corpus can be opened."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import density_tables
from benchmarks.photographs import NUM_TEST, encoded, main, tiles, write_corpus
from worldmodel.corpora import open_corpus


@pytest.fixture
def paths(tmp_path):
    """Photographs of one grey level each."""
    for number in range(8):
        Image.new("RGB", (200 + 40 * (number % 2), 160), (20 * number,) * 3).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.glob("*.png"))


def test_tiles_cover_a_picture_without_overlap():
    pixels = np.arange(64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
    found = {tile.tobytes() for tile in tiles(Image.fromarray(pixels), heights=(64,))}
    expected = {pixels[y : y + 32, x : x + 32].tobytes() for y in (0, 32) for x in (0, 32, 64)}
    assert found == expected


def test_rows_are_those_of_cifar10():
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    content = encoded(image, 7)
    assert len(content) == 2 * 3073
    assert content[0] == content[3073] == 7
    assert content[1:1025] == image[0, :, :, 0].tobytes()  # the red pixels, row by row


def test_a_photograph_of_the_test_part_is_in_no_other(paths, tmp_path):
    counts = write_corpus(paths, tmp_path / "corpus")
    corpus = open_corpus(f"cifar10:{tmp_path / 'corpus'}")
    assert len(corpus.train) + len(corpus.held_out) == sum(count for name, count in counts.items() if "data" in name)
    assert len(corpus.test) == counts["test_batch.bin"]
    levels = [
        {int(level) for batch in part.batches(500) for level in (batch.event.mean(dim=(1, 2)) * 256 / 20).round()}
        for part in (corpus.train, corpus.held_out, corpus.test)
    ]
    assert len(levels[2]) == NUM_TEST
    assert not levels[2] & (levels[0] | levels[1])


def test_images_are_grouped_by_photograph_in_the_order_of_evaluation(paths, tmp_path):
    write_corpus(paths, tmp_path / "corpus")
    corpus = open_corpus(f"cifar10:{tmp_path / 'corpus'}")
    found = density_tables.sequences_of(corpus, tmp_path / "corpus")
    assert (found.of, len(set(found.groups))) == ("photographs", NUM_TEST)
    levels = [
        int(level) for batch in corpus.test.batches(500) for level in (batch.event.mean(dim=(1, 2)) * 256 / 20).round()
    ]
    assert [str(level) for level in levels] == found.groups


def test_missing_or_few_photographs_are_refused(paths, tmp_path):
    with pytest.raises(ValueError, match="none.jpg"):
        write_corpus([*paths, tmp_path / "none.jpg"], tmp_path / "corpus")
    with pytest.raises(ValueError, match="paths"):
        write_corpus(paths[: NUM_TEST + 1], tmp_path / "corpus")
    with pytest.raises(ValueError, match="jpg"):
        main([str(tmp_path / "corpus"), "--root", str(tmp_path)])
    assert not (tmp_path / "corpus").exists()
