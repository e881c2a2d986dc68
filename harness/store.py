"""The import path of earlier versions: the store of scores is `harness.engine.store`."""

from harness.engine.store import Row, ScoreKey, ScoreStore, hive_folder, write_table, write_text, write_whole

__all__ = ["Row", "ScoreKey", "ScoreStore", "hive_folder", "write_table", "write_text", "write_whole"]
