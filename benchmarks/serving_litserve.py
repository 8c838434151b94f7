"""LitServe as benchmarks/serving.py compares it: its own batching, as large as ours. Its workers import this file."""

import argparse
from typing import Any

import litserve
from fastapi import Request
from serving_servers import BATCH, Model, asked


class Api(litserve.LitAPI):
    """One call is a ScoreRequest; a batch of calls goes through the model at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.005, api_path="/v1/score")
        self.options = options

    def setup(self, device: Any) -> None:
        self.model = Model(self.options, max(1, self.options.threads // self.options.workers))

    def decode_request(self, request: Request) -> Any:  # of this type: then it is a form
        return asked(request, (request["image_a"].file.read(), request["image_b"].file.read()))

    def batch(self, inputs: Any) -> Any:
        return inputs

    def predict(self, calls: Any) -> Any:
        return self.model.score(calls)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return {"verdicts": [verdict.as_dict() for verdict in output]}


def serve(options: argparse.Namespace) -> None:
    """Until it is killed."""
    server = litserve.LitServer(
        Api(options), accelerator="cpu", workers_per_device=options.workers, timeout=120, fast_queue=options.fast_queue
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False, num_api_servers=1)
