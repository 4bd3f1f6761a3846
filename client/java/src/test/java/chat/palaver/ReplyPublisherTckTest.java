package chat.palaver;

import chat.palaver.support.Replies;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Flow;
import org.reactivestreams.tck.TestEnvironment;
import org.reactivestreams.tck.flow.FlowPublisherVerification;
import org.testng.annotations.AfterClass;
import org.testng.annotations.BeforeClass;

/** Runs the TCK of Reactive Streams, which is based on TestNG, against a real server. */
public final class ReplyPublisherTckTest extends FlowPublisherVerification<PostUserQueryResponse> {
    private ScriptedServer server;
    private PalaverClient client;

    /** Sets how many milliseconds the TCK waits for a signal, and for the absence of one. */
    public ReplyPublisherTckTest() {
        super(new TestEnvironment(2000, 200));
    }

    @BeforeClass
    public void open() {
        server = new ScriptedServer();
        client = PalaverClient.connect(server.target());
    }

    @AfterClass
    public void close() {
        client.close();
        server.close();
    }

    @Override
    public long maxElementsFromPublisher() {
        return 100_000;
    }

    @Override
    public Flow.Publisher<PostUserQueryResponse> createFlowPublisher(long elements) {
        List<Step> steps = new ArrayList<>();
        if (elements > 1) {
            steps.add(Replies.started());
        }
        steps.addAll(Collections.nCopies((int) Math.max(0, elements - 2), Replies.text("x")));
        if (elements > 0) {
            steps.add(Replies.completed());
        }
        return publisher(steps);
    }

    @Override
    public Flow.Publisher<PostUserQueryResponse> createFailedFlowPublisher() {
        return publisher(List.of(Step.refuse(Status.Code.NOT_FOUND, "ASSISTANT_NOT_FOUND")));
    }

    private Flow.Publisher<PostUserQueryResponse> publisher(List<Step> steps) {
        server.script("PostUserQuery", steps);
        return client.async().postUserQuery(PostUserQueryRequest.getDefaultInstance());
    }
}
