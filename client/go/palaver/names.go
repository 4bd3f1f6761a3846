package palaver

import palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"

// The requests and responses of the contract. Their fields are documented in palaverv1.
type (
	CreateAssistantRequest     = palaverv1.CreateAssistantRequest
	CreateAssistantResponse    = palaverv1.CreateAssistantResponse
	GetAssistantRequest        = palaverv1.GetAssistantRequest
	GetAssistantResponse       = palaverv1.GetAssistantResponse
	ListMessagesRequest        = palaverv1.ListMessagesRequest
	ListMessagesResponse       = palaverv1.ListMessagesResponse
	DeleteAssistantRequest     = palaverv1.DeleteAssistantRequest
	DeleteAssistantResponse    = palaverv1.DeleteAssistantResponse
	PostUserQueryRequest       = palaverv1.PostUserQueryRequest
	PostUserQueryResponse      = palaverv1.PostUserQueryResponse
	PostUserQueryUnaryResponse = palaverv1.PostUserQueryUnaryResponse
	CancelTurnRequest          = palaverv1.CancelTurnRequest
	CancelTurnResponse         = palaverv1.CancelTurnResponse
)

// The events of a reply.
type (
	TurnStarted   = palaverv1.TurnStarted
	TextDelta     = palaverv1.TextDelta
	SkillCall     = palaverv1.SkillCall
	SkillResult   = palaverv1.SkillResult
	Progress      = palaverv1.Progress
	TurnCompleted = palaverv1.TurnCompleted
)

// The parts of requests, responses and events.
type (
	Assistant = palaverv1.Assistant
	Message   = palaverv1.Message
	Skill     = palaverv1.Skill
	History   = palaverv1.History
	Usage     = palaverv1.Usage
)

// The possible values of Outcome in a [SkillResult].
type (
	SkillResultContent = palaverv1.SkillResult_Content
	SkillResultError   = palaverv1.SkillResult_Error
)

// A Role is the author of a message.
type Role = palaverv1.Role

// The values of [Role].
const (
	RoleUnspecified = palaverv1.Role_ROLE_UNSPECIFIED
	RoleSystem      = palaverv1.Role_ROLE_SYSTEM
	RoleUser        = palaverv1.Role_ROLE_USER
	RoleAssistant   = palaverv1.Role_ROLE_ASSISTANT
	RoleTool        = palaverv1.Role_ROLE_TOOL
)

// IfExists is what [Client.CreateAssistant] does if the assistant already exists.
type IfExists = palaverv1.IfExists

// The values of [IfExists].
const (
	IfExistsUnspecified = palaverv1.IfExists_IF_EXISTS_UNSPECIFIED
	IfExistsFail        = palaverv1.IfExists_IF_EXISTS_FAIL
	IfExistsKeep        = palaverv1.IfExists_IF_EXISTS_KEEP
	IfExistsReset       = palaverv1.IfExists_IF_EXISTS_RESET
)

// An Order is the order of listed messages.
type Order = palaverv1.Order

// The values of [Order].
const (
	OrderUnspecified = palaverv1.Order_ORDER_UNSPECIFIED
	OrderOldestFirst = palaverv1.Order_ORDER_OLDEST_FIRST
	OrderNewestFirst = palaverv1.Order_ORDER_NEWEST_FIRST
)

// OnDisconnect is what happens to a turn when its last caller cancels, disconnects or reaches its deadline.
type OnDisconnect = palaverv1.OnDisconnect

// The values of [OnDisconnect].
const (
	OnDisconnectUnspecified = palaverv1.OnDisconnect_ON_DISCONNECT_UNSPECIFIED
	OnDisconnectCancel      = palaverv1.OnDisconnect_ON_DISCONNECT_CANCEL
	OnDisconnectContinue    = palaverv1.OnDisconnect_ON_DISCONNECT_CONTINUE
)

// A ProgressPhase is what a running turn is waiting for.
type ProgressPhase = palaverv1.ProgressPhase

// The values of [ProgressPhase].
const (
	ProgressPhaseUnspecified = palaverv1.ProgressPhase_PROGRESS_PHASE_UNSPECIFIED
	ProgressPhaseModel       = palaverv1.ProgressPhase_PROGRESS_PHASE_MODEL
	ProgressPhaseSkill       = palaverv1.ProgressPhase_PROGRESS_PHASE_SKILL
)

// A FinishReason is why the model stopped writing.
type FinishReason = palaverv1.FinishReason

// The values of [FinishReason].
const (
	FinishReasonUnspecified   = palaverv1.FinishReason_FINISH_REASON_UNSPECIFIED
	FinishReasonStop          = palaverv1.FinishReason_FINISH_REASON_STOP
	FinishReasonLength        = palaverv1.FinishReason_FINISH_REASON_LENGTH
	FinishReasonContentFilter = palaverv1.FinishReason_FINISH_REASON_CONTENT_FILTER
	FinishReasonSkillLimit    = palaverv1.FinishReason_FINISH_REASON_SKILL_LIMIT
	FinishReasonSkillCalls    = palaverv1.FinishReason_FINISH_REASON_SKILL_CALLS
)
