from bitbench.results import store
from bitbench.results.record import SCHEMA_VERSION
from bitbench.results.summary import summarize
from tests.factories import ending, h200
from tests.golden import DATA, schema_text


def test_a_change_of_the_schema_needs_a_new_version() -> None:
    golden = DATA / f"schema-v{SCHEMA_VERSION}.json"
    assert golden.exists(), f"write the golden files of schema {SCHEMA_VERSION}: python -m tests.golden"
    assert schema_text() == golden.read_text(), (
        "the record changed: raise SCHEMA_VERSION with a line in its history, add a migration to store.MIGRATIONS, "
        "then python -m tests.golden"
    )


def test_every_released_version_has_a_golden_file_that_reads_without_problems() -> None:
    for version in range(1, SCHEMA_VERSION + 1):
        loaded = store.read([DATA / f"records-v{version}.jsonl"])
        assert loaded.problems == ()
        assert len(loaded.records) == len(h200())
        assert len(loaded.endings) == 1


def test_the_golden_file_still_means_the_same() -> None:
    loaded = store.read([DATA / f"records-v{SCHEMA_VERSION}.jsonl"])
    then, now = summarize(loaded.records, loaded.endings), summarize(h200(), [ending()])
    assert [(s.method, s.decode_tokens_per_s) for s in then] == [(s.method, s.decode_tokens_per_s) for s in now]


def test_there_is_a_migration_from_every_older_version() -> None:
    assert set(store.MIGRATIONS) == set(range(1, SCHEMA_VERSION))
