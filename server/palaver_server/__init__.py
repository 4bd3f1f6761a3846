"""The Palaver server."""

import os

# Set before gRPC is imported. Its fork handlers would run in the processes that check the arguments of skills, before
# these run another program, and might end them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
