"""Text encoders of sentence-transformers (extra `encoders`)."""

from collections.abc import Sequence

from countryreward.errors import UserError
from countryreward.retrieval.encoders.base import Vectors, composed, unit_rows
from countryreward.retrieval.encoders.pretrained_weights import best_device, load_pretrained, packaged, revision


class SentenceEncoder:
    """A sentence-transformers model: a hub name, a folder, or an installed package that carries one."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "encoders.text: sentence-transformers is not installed; pip install 'countryreward[encoders]'"
            ) from None
        where = packaged(name)
        self.model = load_pretrained(lambda: SentenceTransformer(where, device=best_device()), name)
        self.fingerprint = f"sentence-transformers:{revision(where)}"
        self.dimension = int(self.encode(["dimension"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n] texts -> [n, D] float32 unit rows."""
        return unit_rows(self.model.encode(composed(texts), convert_to_numpy=True, show_progress_bar=False))
