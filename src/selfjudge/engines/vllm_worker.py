"""What vLLM's own processes run for us. Imported there, and never from the package."""

from __future__ import annotations

from typing import Any


class WeightHandOver:
    """Joins vLLM's worker class (``worker_extension_cls``)."""

    reload_weights: Any  # the worker's own
    get_model: Any

    def hand_over_weights(self, folder: str) -> None:
        """Replaces the weights in place by those in a model folder, the output head's included."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

        self.reload_weights(weights_path=folder)
        # On a CPU a head that shares its weights with the embedding works on a packed copy of them. No weights are
        # loaded under the head's own name, so vLLM would leave the old copy in use.
        for module in self.get_model().modules():
            if isinstance(module, ParallelLMHead) and isinstance(module.quant_method, UnquantizedEmbeddingMethod):
                module.quant_method.process_weights_after_loading(module)
