package chat.palaver;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.GetAssistantResponse;
import chat.palaver.v1.PostUserQueryUnaryResponse;
import chat.palaver.v1.TurnCompleted;

/** Reads the responses of unary calls. A response without a message that the contract requires is an error. */
final class Responses {
    private Responses() {}

    static CreateAssistantResponse createdAssistant(CreateAssistantResponse response) {
        require(response.hasAssistant(), "assistant");
        return response;
    }

    static Assistant assistant(GetAssistantResponse response) {
        require(response.hasAssistant(), "assistant");
        return response.getAssistant();
    }

    static TurnCompleted completed(PostUserQueryUnaryResponse response) {
        require(response.hasCompleted(), "completed");
        return response.getCompleted();
    }

    private static void require(boolean isPresent, String field) {
        if (!isPresent) {
            throw PalaverException.malformedResponse("`" + field + "` is missing", null);
        }
    }
}
