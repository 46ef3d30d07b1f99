"""The wire of OpenID Connect and OAuth 2.0: what an issuer says about itself, about a login, and in a refusal."""

from pydantic import BaseModel


class ProviderMetadata(BaseModel):
    """An issuer's discovery document (OpenID Connect Discovery 1.0, section 3), as far as it is used here."""

    issuer: str
    jwks_uri: str
    token_endpoint: str = ""
    device_authorization_endpoint: str = ""
    revocation_endpoint: str = ""


class DeviceCode(BaseModel):
    """The beginning of a device login (RFC 8628, section 3.2); times in seconds."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str = ""
    expires_in: float
    interval: float = 5.0


class TokenAnswer(BaseModel):
    """What a token endpoint gives (RFC 6749, section 5.1)."""

    access_token: str
    id_token: str = ""
    refresh_token: str = ""
    expires_in: float = 0.0


class OAuthError(BaseModel):
    """Why an OAuth endpoint refuses (RFC 6749, section 5.2)."""

    error: str
    error_description: str = ""


def discovery_url(issuer: str) -> str:
    """Where an issuer describes itself."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"
