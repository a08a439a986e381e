"""Checks the settings: their values, misspelt and unknown names, and the rules of the environment."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_settings import SettingsError

from ..config import Settings, get_settings
from ..infra.database import StartupError
from ..keys import weak_keys
from ..preparation import check_production
from ..settings_sources import MIN_SIMILARITY as SIMILAR
from ..settings_sources import find_misspelt
from .findings import Finding, error, from_sentence, ok, warning

CHECK = "settings"
FILES = (".env", ".env.production")
FAMILY = 3  # settings that share their first word: with fewer, the word is another tool's, such as OPENAI
CONSOLE_SETTINGS = ("console_trusted_header", "console_trace_url")
MIN_SIMILARITY = 0.6  # from 0 to 1, of a name that is known to be meant as a setting


def check_settings() -> tuple[Settings | None, list[Finding]]:
    """Return the settings, None if they are not valid, and what is wrong with them and their names."""
    found = [from_sentence(CHECK, "warning", sentence) for sentence in find_misspelt(Settings)]
    resembling = {each.found.partition(" ")[0] for each in found}
    found += [each for file in FILES for each in _unknown_names(Path(file), resembling)]
    try:
        settings = get_settings()
    except ValidationError as invalid:
        return None, found + [_invalid(dict(each)) for each in invalid.errors()]
    except SettingsError as invalid:
        return None, [*found, error(CHECK, "Correct the value", str(invalid))]
    found += list(_rules(settings))
    effects = "on" if settings.runs_effects else "off"
    return settings, found or [ok(CHECK, f"{settings.environment}, effects {effects}")]


def _unknown_names(file: Path, resembling: set[str]) -> Iterator[Finding]:
    """Find names that resemble a setting, or share their first word with a family of settings."""
    if not file.is_file():
        return
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted({name.upper() for name in dotenv_values(file)} - known - resembling):
        of_family = name.partition("_")[0] in _families(known)
        near = get_close_matches(name, known, 1, MIN_SIMILARITY if of_family else SIMILAR)
        if not near and not of_family:
            continue
        remedy = f"Did you mean {near[0]}? Else remove it" if near else "Remove it"
        yield warning(CHECK, remedy, f"{name} in {file} is not a setting")


def _families(known: set[str]) -> set[str]:
    words = [name.partition("_")[0] for name in known]
    return {word for word in words if words.count(word) >= FAMILY}


def _invalid(problem: dict[str, object]) -> Finding:
    place = problem.get("loc")
    name = ".".join(map(str, place)).upper() if isinstance(place, tuple) else ""  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - Pydantic's own tuple
    found = str(problem.get("msg")).removeprefix("Value error, ")
    return error(CHECK, f"Correct {name or 'the settings'}", found)


def _rules(settings: Settings) -> Iterator[Finding]:
    try:
        check_production(settings)
    except StartupError as problem:
        yield from_sentence(CHECK, "error", str(problem))
    for sentence in weak_keys(settings.api_keys, settings.api_clients) if settings.lenient else ():
        yield from_sentence(CHECK, "warning", sentence)
    for name in () if settings.lenient or settings.serves_console else CONSOLE_SETTINGS:
        if getattr(settings, name) is not None:
            yield warning(
                CHECK,
                "Give a client of API_CLIENTS the role read, set CONSOLE=on, or remove it",
                f"{name.upper()} has no effect: no console is served",
            )
