"""The contract `palaver.v1`: messages and stubs as the Protobuf compiler generates them.

Import the modules (`from palaver.v1 import assistant_service_pb2`) to use the contract directly. `palaver.AsyncClient`
and `palaver.Client` cover all of `AssistantService` with less ceremony.
"""
