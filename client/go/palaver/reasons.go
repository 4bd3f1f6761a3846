package palaver

// A Reason is the exact cause of an [Error]. It is the name of a value of the contract's ErrorReason, without its prefix.
// Newer servers may send reasons that are not listed below.
type Reason string

// The reasons of an [Error]. The documentation of palaverv1.ErrorReason explains each of them.
const (
	ReasonInvalidField             Reason = "INVALID_FIELD"
	ReasonRequestIDReused          Reason = "REQUEST_ID_REUSED"
	ReasonModelRejectedRequest     Reason = "MODEL_REJECTED_REQUEST"
	ReasonModelNotFound            Reason = "MODEL_NOT_FOUND"
	ReasonModelContentFiltered     Reason = "MODEL_CONTENT_FILTERED"
	ReasonAssistantNotFound        Reason = "ASSISTANT_NOT_FOUND"
	ReasonTurnNotFound             Reason = "TURN_NOT_FOUND"
	ReasonAssistantExists          Reason = "ASSISTANT_EXISTS"
	ReasonAssistantBusy            Reason = "ASSISTANT_BUSY"
	ReasonConcurrentWrite          Reason = "CONCURRENT_WRITE"
	ReasonConnectionNotConfigured  Reason = "CONNECTION_NOT_CONFIGURED"
	ReasonContextLengthExceeded    Reason = "CONTEXT_LENGTH_EXCEEDED"
	ReasonConversationFull         Reason = "CONVERSATION_FULL"
	ReasonModelQuotaExhausted      Reason = "MODEL_QUOTA_EXHAUSTED"
	ReasonModelCredentialsRejected Reason = "MODEL_CREDENTIALS_REJECTED"
	ReasonStoreCredentialsRejected Reason = "STORE_CREDENTIALS_REJECTED"
	ReasonModelRateLimited         Reason = "MODEL_RATE_LIMITED"
	ReasonTooManyTurns             Reason = "TOO_MANY_TURNS"
	ReasonStoreFull                Reason = "STORE_FULL"
	ReasonTurnTooLarge             Reason = "TURN_TOO_LARGE"
	ReasonModelUnavailable         Reason = "MODEL_UNAVAILABLE"
	ReasonModelStreamBroken        Reason = "MODEL_STREAM_BROKEN"
	ReasonStoreUnavailable         Reason = "STORE_UNAVAILABLE"
	ReasonShuttingDown             Reason = "SHUTTING_DOWN"
	ReasonModelTimeout             Reason = "MODEL_TIMEOUT"
	ReasonTurnCancelled            Reason = "TURN_CANCELLED"
	ReasonStoreCorrupt             Reason = "STORE_CORRUPT"
	ReasonInternal                 Reason = "INTERNAL"
	ReasonUnimplemented            Reason = "UNIMPLEMENTED"
	ReasonUnauthenticated          Reason = "UNAUTHENTICATED"
	ReasonPermissionDenied         Reason = "PERMISSION_DENIED"
	ReasonQuotaExceeded            Reason = "QUOTA_EXCEEDED"
)
