package chat.palaver;

import static chat.palaver.support.Replies.shown;
import static chat.palaver.support.Replies.started;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import chat.palaver.support.CuttingProxy;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.v1.PostUserQueryRequest;
import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Tests the keepalive. The test takes 40 seconds, so it has its own class, which runs in parallel to the others. */
class KeepaliveTest {
    @Test
    @Timeout(120)
    void aSilentServerIsUnavailable() throws Exception {
        try (ScriptedServer server = new ScriptedServer();
                CuttingProxy proxy = new CuttingProxy(server);
                PalaverClient client = PalaverClient.builder()
                        .target(proxy.target())
                        .reconnectTimeout(Duration.ZERO)
                        .build()) {
            server.script("PostUserQuery", List.of(started(), Step.hang()));
            try (Reply reply = client.postUserQuery(PostUserQueryRequest.getDefaultInstance())) {
                assertEquals("started", shown(reply.iterator().next()));
                proxy.freeze();
                PalaverException error = assertThrows(PalaverException.class, () -> shown(reply));
                assertEquals(Status.Code.UNAVAILABLE, error.status());
            }
        }
    }
}
