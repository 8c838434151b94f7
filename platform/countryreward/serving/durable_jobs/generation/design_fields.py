"""Form fields of the generator to designs. Every refusal names the field and the way out, never the value."""

from collections.abc import Sequence

from pydantic import ValidationError

from countryreward.api.generation_schemas import DesignFields
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import ServiceConfig


def designs_of(texts: Sequence[str], config: ServiceConfig) -> tuple[Design, ...]:
    """Of each text: its four lines, or a JSON object of the four fields. Raises `Problem`."""
    if len(texts) > config.max_designs:
        raise Problem("invalid_input", f"design: more than {config.max_designs}; send fewer at a time")
    return tuple(_design(text, number, config) for number, text in enumerate(texts, start=1))


def _design(text: str, number: int, config: ServiceConfig) -> Design:
    if len(text) > config.max_text:
        raise Problem(
            "invalid_input", f"design: number {number} is longer than {config.max_text} characters; shorten it"
        )
    try:
        text.encode("utf-8")
        if text.lstrip().startswith("{"):
            design = DesignFields.model_validate_json(text, strict=True).design()
        else:
            design = Design.parse(text)
        design.as_text().encode("utf-8")  # an escape in the JSON may be half a character
    except UnicodeEncodeError:
        raise Problem(
            "invalid_input", f"design: number {number} holds a character that is no Unicode; write UTF-8"
        ) from None
    except (ValidationError, UserError):
        told = "Foreground, Background, Color Tone, Lighting"
        raise Problem(
            "invalid_input",
            f"design: number {number} must be four lines, each with its label ({told}), or a JSON object of"
            " foreground, background, color_tone and lighting; none may be empty",
        ) from None
    return design
