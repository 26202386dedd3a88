"""OCI registries: adapters pushed as images, images pulled into folders, logins checked. Trains and serves nothing."""

from kaito.oci.adapters import Pushed, push_adapter
from kaito.oci.credentials import Credentials, Login
from kaito.oci.errors import ImageInvalid, ImageNotFound, PullDenied, PushDenied, RegistryUnavailable
from kaito.oci.images import Inspected, Pulled, check_push, inspect, pull
from kaito.oci.reference import Reference

__all__ = [
    "Credentials",
    "ImageInvalid",
    "ImageNotFound",
    "Inspected",
    "Login",
    "PullDenied",
    "Pulled",
    "PushDenied",
    "Pushed",
    "Reference",
    "RegistryUnavailable",
    "check_push",
    "inspect",
    "pull",
    "push_adapter",
]
