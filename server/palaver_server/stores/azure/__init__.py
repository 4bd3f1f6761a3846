"""The store that replicas share: Azure Table Storage, or Cosmos DB for Table."""

from palaver_server.stores.azure.store import AzureTablesStore

__all__ = ["AzureTablesStore"]
