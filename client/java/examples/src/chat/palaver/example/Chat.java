package chat.palaver.example;

import static java.nio.charset.StandardCharsets.UTF_8;

import chat.palaver.PalaverClient;
import chat.palaver.PalaverException;
import chat.palaver.Reply;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.IfExists;
import chat.palaver.v1.OnDisconnect;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.SkillCall;
import chat.palaver.v1.SkillResult;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Proxy;

/**
 * A chat in the terminal: {@code chat [TARGET] [ASSISTANT_ID]}. Each line of the input is a message. Ctrl-C ends the
 * reply that is being shown, and at the prompt the chat, as does the end of the input.
 */
public final class Chat {
    private static final PrintStream OUT = new PrintStream(System.out, false, UTF_8);

    /** What the launcher passes where a person types. Java itself can't tell of standard input alone. */
    private static final String PROMPT = System.getProperty("chat.prompt", "");

    private final PalaverClient client;
    private final String assistantId;
    private boolean isCreated;

    /** The reply that is being shown; null at the prompt. */
    private volatile Reply reply;

    private Chat(PalaverClient client, String assistantId) {
        this.client = client;
        this.assistantId = assistantId;
    }

    public static void main(String[] arguments) throws Exception {
        String target = arguments.length > 0 ? arguments[0] : PalaverClient.DEFAULT_TARGET;
        String assistantId = arguments.length > 1 ? arguments[1] : "java-chat";
        try (PalaverClient client = PalaverClient.connect(target)) {
            Chat chat = new Chat(client, assistantId);
            chat.listenForInterrupts();
            chat.run();
        } catch (IllegalArgumentException e) { // the target is none
            System.err.println(e.getMessage());
            System.exit(2);
        }
    }

    private void run() throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line = prompt(lines); line != null; line = prompt(lines)) {
            if (!line.isBlank()) {
                takeTurn(line);
            }
        }
    }

    private static String prompt(BufferedReader lines) throws IOException {
        show(PROMPT);
        return lines.readLine();
    }

    private void takeTurn(String message) {
        try {
            createAssistant();
            showReply(message);
        } catch (PalaverException e) {
            show("\n");
            complain(e);
        }
    }

    private void createAssistant() {
        if (!isCreated) {
            client.createAssistant(CreateAssistantRequest.newBuilder()
                    .setId(assistantId)
                    .setIfExists(IfExists.IF_EXISTS_KEEP)
                    .build());
            isCreated = true;
        }
    }

    private void showReply(String message) {
        PostUserQueryRequest query = PostUserQueryRequest.newBuilder()
                .setId(assistantId)
                .setUserMessage(message)
                .setOnDisconnect(OnDisconnect.ON_DISCONNECT_CONTINUE)
                .build();
        try (Reply reply = client.postUserQuery(query)) {
            this.reply = reply;
            int beginnings = 0;
            for (PostUserQueryResponse event : reply) {
                switch (event.getEventCase()) {
                    case STARTED -> {
                        if (++beginnings > 1) {
                            show("\n[The reply begins again.]\n");
                        }
                    }
                    case TEXT_DELTA -> show(event.getTextDelta().getText());
                    case SKILL_CALL -> showSkill(event.getSkillCall());
                    case SKILL_RESULT -> showSkill(event.getSkillResult());
                    default -> {}
                }
            }
            show("\n");
        } finally {
            this.reply = null;
        }
    }

    /**
     * Java hears of Ctrl-C and goes on only with {@code sun.misc.Signal}, which is called by name because the compiler warns
     * of it and can't be told not to.
     */
    private void listenForInterrupts() throws ReflectiveOperationException {
        Class<?> signal = Class.forName("sun.misc.Signal");
        Class<?> handler = Class.forName("sun.misc.SignalHandler");
        Object listener = Proxy.newProxyInstance(
                Chat.class.getClassLoader(), new Class<?>[] {handler}, (proxy, method, arguments) -> {
                    interrupt();
                    return null;
                });
        signal.getMethod("handle", signal, handler)
                .invoke(null, signal.getConstructor(String.class).newInstance("INT"), listener);
    }

    /** Runs on a thread of its own, at Ctrl-C. */
    private void interrupt() {
        Reply current = reply;
        if (current != null) {
            try {
                // To close the reply is not enough: the turn was posted to go on without its caller.
                client.cancelTurn(CancelTurnRequest.newBuilder()
                        .setId(assistantId)
                        .setRequestId(current.requestId())
                        .build());
            } catch (PalaverException e) {
                complain(e);
            }
        } else {
            show("\n");
            System.exit(0);
        }
    }

    private static void complain(PalaverException error) {
        System.err.println(error.getMessage().replaceAll("\\s+", " "));
    }

    private static void show(String text) {
        OUT.print(text);
        OUT.flush();
    }

    private static void showSkill(SkillCall call) {
        System.err.println("[" + call.getName() + " " + call.getArgumentsJson() + "]");
    }

    private static void showSkill(SkillResult result) {
        System.err.println("[" + (result.hasError() ? "error: " + result.getError() : result.getContent()) + "]");
    }
}
