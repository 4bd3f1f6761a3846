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
 * A terminal chat: {@code chat [TARGET] [ASSISTANT_ID]}. Each line of input is a message. Ctrl-C cancels the reply that is
 * being shown. At the prompt, Ctrl-C or the end of input ends the chat.
 */
public final class Chat {
    private static final PrintStream OUT = new PrintStream(System.out, false, UTF_8);

    /** Set by the launcher if standard input is a terminal, which Java can't detect. */
    private static final String PROMPT = System.getProperty("chat.prompt", "");

    private final PalaverClient client;
    private final String assistantId;
    private boolean isCreated;

    /** The reply that is being shown, or null at the prompt. */
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
        } catch (IllegalArgumentException e) { // the target is invalid
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
            printError(e);
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
            int starts = 0;
            for (PostUserQueryResponse event : reply) {
                switch (event.getEventCase()) {
                    case STARTED -> {
                        if (++starts > 1) {
                            show("\n[the connection broke, and the reply restarts]\n");
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
     * Handles Ctrl-C. Only {@code sun.misc.Signal} can do that without ending the JVM; it is called by reflection because the
     * compiler's warning about it can't be suppressed.
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

    /** Runs at Ctrl-C, on its own thread. */
    private void interrupt() {
        Reply current = reply;
        if (current != null) {
            try {
                // Closing the reply is not enough, because of ON_DISCONNECT_CONTINUE.
                client.cancelTurn(CancelTurnRequest.newBuilder()
                        .setId(assistantId)
                        .setRequestId(current.requestId())
                        .build());
            } catch (PalaverException e) {
                printError(e);
            }
        } else {
            show("\n");
            System.exit(0);
        }
    }

    private static void printError(PalaverException error) {
        printNotice(error.getMessage().replaceAll("\\s+", " "));
    }

    private static void printNotice(String text) {
        System.err.println(Printable.printable(text));
    }

    private static void show(String text) {
        OUT.print(Printable.printable(text));
        OUT.flush();
    }

    private static void showSkill(SkillCall call) {
        printNotice("[" + call.getName() + " " + call.getArgumentsJson() + "]");
    }

    private static void showSkill(SkillResult result) {
        printNotice("[" + (result.hasError() ? "error: " + result.getError() : result.getContent()) + "]");
    }
}
