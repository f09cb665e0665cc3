"""How models are loaded."""

import gc

from tickerforge.training.backends import loading
from trained_pieces import shared_store, tiny_base_model


def test_a_collection_between_two_models_leaves_the_libraries_out() -> None:
    base = tiny_base_model(shared_store()).location
    gc.unfreeze()
    loading.leave_libraries_alone.cache_clear()
    model = loading.load_base(base, trust_remote_code=False)
    assert gc.get_freeze_count() > len(gc.get_objects())
    del model
