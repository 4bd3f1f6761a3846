package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.support.Vectors;
import chat.palaver.support.Vectors.Failure;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.JsonFormat;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Tests which events are delivered if a turn is posted several times. */
class ReplayTest {
    record Vector(String name, List<Post> posts, List<JsonObject> delivered, Failure error) {}

    record Post(List<JsonObject> events, String status, String reason) {
        List<Step> steps() {
            List<Step> steps = new ArrayList<>();
            events.forEach(event -> steps.add(Step.send(response(event))));
            if (status != null) {
                Status.Code code = Status.Code.valueOf(status);
                steps.add(reason == null ? Step.fail(code.toStatus()) : Step.refuse(code, reason));
            }
            return steps;
        }
    }

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final PalaverClient client = PalaverClient.builder()
            .target(server.target())
            .reconnectTimeout(Duration.ofMinutes(10))
            .build();

    static List<Vector> vectors() {
        return Vectors.read(Vectors.REPLAY, Vector.class);
    }

    private static PostUserQueryResponse response(JsonElement json) {
        try {
            var response = PostUserQueryResponse.newBuilder();
            JsonFormat.parser().merge(json.toString(), response);
            return response.build();
        } catch (InvalidProtocolBufferException e) {
            throw new IllegalArgumentException(e);
        }
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void eachEventIsDeliveredOnce(Vector vector) {
        // If the client does not stop posting, the last answer, which is not a break, ends the reply.
        List<Step> tooMany = List.of(Step.fail(Status.FAILED_PRECONDITION));
        server.scriptAll(
                "PostUserQuery",
                Stream.concat(vector.posts.stream().map(Post::steps), Stream.of(tooMany))
                        .toList());
        List<PostUserQueryResponse> delivered = new ArrayList<>();
        try (Reply reply = client.postUserQuery(PostUserQueryRequest.getDefaultInstance())) {
            Runnable read = () -> reply.forEach(
                    event -> delivered.add(event.toBuilder().clearSequence().build()));
            if (vector.error == null) {
                read.run();
            } else {
                PalaverException error = assertThrows(PalaverException.class, read::run);
                assertEquals(vector.error.code(), error.status());
                assertEquals(vector.error.reason() == null ? "" : vector.error.reason(), error.reason());
            }
        }
        assertEquals(vector.delivered.stream().map(ReplayTest::response).toList(), delivered);
        assertEquals(vector.posts.size(), server.calls().size());
    }
}
