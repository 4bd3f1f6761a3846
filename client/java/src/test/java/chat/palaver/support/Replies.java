package chat.palaver.support;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.FinishReason;
import chat.palaver.v1.GetAssistantResponse;
import chat.palaver.v1.Message;
import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.PostUserQueryUnaryResponse;
import chat.palaver.v1.Progress;
import chat.palaver.v1.ProgressPhase;
import chat.palaver.v1.Role;
import chat.palaver.v1.SkillCall;
import chat.palaver.v1.SkillResult;
import chat.palaver.v1.TextDelta;
import chat.palaver.v1.TurnCompleted;
import chat.palaver.v1.TurnStarted;
import com.google.protobuf.Duration;
import java.util.ArrayList;
import java.util.List;

/** The messages of replies, and their representation as lines of text. */
public final class Replies {
    private Replies() {}

    public static PostUserQueryResponse startedEvent() {
        return PostUserQueryResponse.newBuilder()
                .setStarted(TurnStarted.newBuilder().setChatModel("model"))
                .build();
    }

    public static PostUserQueryResponse textEvent(String text) {
        return PostUserQueryResponse.newBuilder()
                .setTextDelta(TextDelta.newBuilder().setText(text))
                .build();
    }

    public static PostUserQueryResponse skillCallEvent(String id) {
        return PostUserQueryResponse.newBuilder()
                .setSkillCall(SkillCall.newBuilder().setId(id).setName("clock"))
                .build();
    }

    public static PostUserQueryResponse skillResultEvent(String id) {
        return PostUserQueryResponse.newBuilder()
                .setSkillResult(SkillResult.newBuilder().setId(id).setContent("result of " + id))
                .build();
    }

    public static PostUserQueryResponse progressEvent(long seconds) {
        return PostUserQueryResponse.newBuilder()
                .setProgress(Progress.newBuilder()
                        .setPhase(ProgressPhase.PROGRESS_PHASE_MODEL)
                        .setElapsed(Duration.newBuilder().setSeconds(seconds)))
                .build();
    }

    public static PostUserQueryResponse completedEvent() {
        return PostUserQueryResponse.newBuilder().setCompleted(turnCompleted()).build();
    }

    public static Assistant assistant() {
        return Assistant.newBuilder().setId("support").setTotalMessages(3).build();
    }

    public static TurnCompleted turnCompleted() {
        return TurnCompleted.newBuilder()
                .setAssistant(assistant())
                .addMessages(Message.newBuilder()
                        .setIndex(3)
                        .setRole(Role.ROLE_ASSISTANT)
                        .setContent("Hi there"))
                .setFinishReason(FinishReason.FINISH_REASON_STOP)
                .build();
    }

    public static Step started() {
        return Step.send(startedEvent());
    }

    public static Step text(String text) {
        return Step.send(textEvent(text));
    }

    public static Step skillCall(String id) {
        return Step.send(skillCallEvent(id));
    }

    public static Step skillResult(String id) {
        return Step.send(skillResultEvent(id));
    }

    public static Step progress(long seconds) {
        return Step.send(progressEvent(seconds));
    }

    public static Step completed() {
        return Step.send(completedEvent());
    }

    public static Step createdAssistant() {
        return Step.send(
                CreateAssistantResponse.newBuilder().setAssistant(assistant()).build());
    }

    public static Step gotAssistant() {
        return Step.send(
                GetAssistantResponse.newBuilder().setAssistant(assistant()).build());
    }

    public static Step completedUnary() {
        return Step.send(PostUserQueryUnaryResponse.newBuilder()
                .setCompleted(turnCompleted())
                .build());
    }

    /** Returns a complete turn with this text. */
    public static List<Step> turn(String... pieces) {
        List<Step> steps = new ArrayList<>();
        steps.add(started());
        for (String piece : pieces) {
            steps.add(text(piece));
        }
        steps.add(completed());
        return steps;
    }

    /** Returns a line for each event. */
    public static List<String> shown(Iterable<PostUserQueryResponse> events) {
        List<String> lines = new ArrayList<>();
        events.forEach(event -> lines.add(shown(event)));
        return lines;
    }

    public static String shown(PostUserQueryResponse event) {
        return switch (event.getEventCase()) {
            case STARTED -> "started";
            case TEXT_DELTA -> event.getTextDelta().getText();
            case SKILL_CALL -> "call " + event.getSkillCall().getId();
            case SKILL_RESULT -> "result " + event.getSkillResult().getId();
            case PROGRESS ->
                "progress after " + event.getProgress().getElapsed().getSeconds() + " s";
            case COMPLETED -> "completed";
            case EVENT_NOT_SET -> "nothing";
        };
    }
}
