"""Alerts to people: a webhook, chat or mail, as `TICKERFORGE_ALERTS` names them."""

import logging
import os

from tickerforge.tasks.base.logs import run_logger

ALERTS_VARIABLE = "TICKERFORGE_ALERTS"


def send_alert(title: str, text: str) -> bool:
    """Send a message to all addresses in `TICKERFORGE_ALERTS`; a failure is logged and nothing else.

    The addresses are separated by spaces or commas. `https://` and `http://` are webhooks that get JSON (`title`,
    `message`); all other forms are those of the library apprise, such as `slack://`, `mailto://` and `ntfy://`. They
    may hold secrets, so that no log and no message shows them.

    Args:
        title: One line.
        text: Plain text.

    Returns:
        Whether all addresses took it; true without any.
    """
    addresses = os.environ.get(ALERTS_VARIABLE, "").replace(",", " ").split()
    if not addresses:
        return True
    import apprise

    # Its messages name addresses.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    failed = 0
    for address in addresses:
        found = apprise.Apprise.instantiate(address) or apprise.Apprise.instantiate(_as_webhook(address))
        if not found or not found.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT):
            failed += 1
    if failed:
        run_logger(__name__).warning(
            "%d of %d addresses in %s did not take the alert: check them, and that this machine reaches them",
            failed,
            len(addresses),
            ALERTS_VARIABLE,
        )
    return not failed


def _as_webhook(address: str) -> str:
    return address.replace("https://", "jsons://", 1).replace("http://", "json://", 1)
