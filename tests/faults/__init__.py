"""The fault harness: it injects faults and checks what is stored afterwards. Run it with `python -m tests.faults`."""
