"""One answer from the web: http and https alone, redirects to nowhere else. Keeps no file and tries once."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.parse
import urllib.request

_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(RuntimeError):
    """A file could not be had; the message says why and what to do."""


class TryAgainError(Exception):
    """This try ended early; another one may do better."""


class NothingMoreError(TryAgainError):
    """The server has nothing from the byte on that was asked for."""


def answer(url: str, headers: dict[str, str], *, timeout: float) -> http.client.HTTPResponse:
    """The open answer to a GET: status 200, or 206 where the headers ask for a Range.

    timeout: seconds the connection may stay silent.

    Raises TryAgainError where another try may do better, and DownloadError where none will.
    """
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise NothingMoreError("the server has nothing after the bytes kept so far") from error
        if error.code in _RETRY_STATUS:
            raise TryAgainError(f"HTTP status {error.code} {error.reason}") from error
        raise DownloadError(f"{url} answered with HTTP status {error.code}: {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirect that is no URL
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"the certificate of {url} does not hold: {reason}") from error
        raise TryAgainError(f"no answer: {type(reason).__name__}: {reason}") from error
    encoding = response.headers.get("Content-Encoding", "identity")
    expected = (200, 206) if "Range" in headers else (200,)
    if response.status not in expected or encoding.lower() != "identity":
        response.close()
        raise DownloadError(
            f"{url} answered with status {response.status} and encoding {encoding!r}; "
            f"needed is one of {expected}, unencoded"
        )
    return response


def read(response: http.client.HTTPResponse, count: int) -> bytes:
    """At most `count` bytes of an answer, as soon as there are some; none at its end.

    Raises TryAgainError when the connection breaks.
    """
    try:
        return response.read1(count)  # what has arrived; read() would wait for the whole count
    except (OSError, http.client.HTTPException) as error:
        raise TryAgainError(f"{type(error).__name__}: {error}") from error


def scheme(url: str) -> str | None:
    """ "http" or "https"; None for a URL of another kind, one without a host or one that cannot be taken apart."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects only to http and https, and never from https back to http."""

    def http_error_302(self, req, fp, code, msg, headers):  # type: ignore[no-untyped-def]
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        fp.close()  # urllib would read the body of a redirect to its end, however long
        old, new = scheme(req.full_url), scheme(newurl)
        if new is None or (old == "https" and new == "http"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, from {old} to {new}: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """http and https only: without the handlers for file:, ftp: and data: that urllib adds by itself."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
        _SafeRedirects,
    ):
        opener.add_handler(handler())
    return opener
