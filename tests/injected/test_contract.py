"""The API does what its OpenAPI document says, whatever Schemathesis makes up from that.

The one place for clients is taken, so that `/events/stream` answers instead of streaming for ever.
"""

import asyncio
import sys
from pathlib import Path

from pydantic import SecretStr
from websockets.asyncio.client import connect

from my_agent.config import Settings

from .servers import serving, ws_of

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth"
)
BEARER = {"Authorization": "Bearer key"}
# A client must expect 503 at any time; the stream answers nothing else here.
CONFIG = '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", "503"]\n'
EXPECTED = 300  # cases that it makes up, at least


async def test_no_request_that_can_be_made_up_gets_a_500_or_an_answer_that_is_not_documented(
    settings: Settings, tmp_path: Path
) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    guarded = {
        "api_keys": [SecretStr("key")],
        "api_max_connections": 1,
        "api_limit_logins": "off",  # it tries wrong keys
    }
    async with serving(settings.model_copy(update=guarded)) as address:
        async with connect(ws_of(address), additional_headers=BEARER):
            code, said = await run(
                *(
                    "--config-file",
                    str(config),
                    "run",
                    f"{address}/openapi.json",
                    "--checks",
                    CHECKS,
                    "--no-color",
                ),
                *("--header", f"Authorization: {BEARER['Authorization']}"),
                *("--workers", "4", "--max-examples", "30", "--seed", "1", "--continue-on-failure"),
                *("--warnings", "off", "--generation-database", "none"),
            )

    assert code == 0, said
    assert "Tested: 13" in said, f"every operation is tried:\n{said}"
    generated = int(said.partition("Test cases:")[2].split()[0])
    assert generated >= EXPECTED, said


async def run(*options: str) -> tuple[int | None, str]:
    """Run Schemathesis beside the service and return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()
