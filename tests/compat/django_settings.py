"""Django's own test suite on the server that the environment names. Recorded as `recorder.py` does for pytest."""

import os

SERVER = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"],
}
DATABASES = {"default": SERVER | {"NAME": "django"}, "other": SERVER | {"NAME": "django_other"}}
SECRET_KEY = "none"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_recorder.Runner"
