"""Keeps the messages of gRPC's C++ core off stderr, which is for the log. Import it before gRPC.

Any peer can cause them without end, for instance by connecting without TLS. GRPC_VERBOSITY=error brings them back.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "none")
