package chat.palaver;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.Message;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.TurnCompleted;
import com.google.errorprone.annotations.MustBeClosed;
import io.grpc.Channel;
import io.grpc.ManagedChannelBuilder;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Objects;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * Talks to a Palaver server. One is enough for a whole program, and any number of threads may use it at once.
 *
 * <pre>{@code
 * try (PalaverClient client = PalaverClient.connect("127.0.0.1:50051")) {
 *     client.createAssistant(CreateAssistantRequest.newBuilder()
 *             .setId("support-42")
 *             .setIfExists(IfExists.IF_EXISTS_KEEP)
 *             .build());
 *     PostUserQueryRequest query = PostUserQueryRequest.newBuilder()
 *             .setId("support-42")
 *             .setUserMessage("Hello!")
 *             .build();
 *     try (Reply reply = client.postUserQuery(query)) {
 *         for (String text : reply.text()) {
 *             System.out.print(text);
 *         }
 *     }
 * }
 * }</pre>
 *
 * <p>All calls share one connection, which is opened with the first one and opened anew when it breaks.
 *
 * <p>Every call may have a deadline: the one given with the call, else {@link Builder#timeout the client's}, else none. For
 * a call that shall have none where the client has one, give {@code ChronoUnit.FOREVER.getDuration()}. Calls made within
 * an {@code io.grpc.Context} end with it and keep its deadline, also when they are posted again.
 *
 * <p>All calls throw {@link PalaverException} when they fail. To leave a call that is waiting, interrupt its thread: it gets
 * a {@code PalaverException} with the status {@code CANCELLED}, its interrupt flag is set, and the call is over for the server,
 * too. All of them throw {@link IllegalStateException} once the client is closed.
 */
public final class PalaverClient implements AutoCloseable {
    /** The server that is called unless another one is given. */
    public static final String DEFAULT_TARGET = "127.0.0.1:50051";

    /** How long a turn may go without its connection unless another time is given: 10 seconds. */
    public static final Duration DEFAULT_RECONNECT_TIMEOUT = Duration.ofSeconds(10);

    private final Connection connection;
    private final PalaverAsyncClient async;

    private PalaverClient(Builder builder) {
        connection = new Connection(builder);
        async = new PalaverAsyncClient(connection);
    }

    /**
     * Returns a client of a server, in plaintext and without a token.
     *
     * @param target the server: see {@link Builder#target}
     * @return the client
     */
    public static PalaverClient connect(String target) {
        return builder().target(target).build();
    }

    /**
     * Returns a builder of a client.
     *
     * @return the builder, with the default of every option
     */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Returns the same calls for code that does not block.
     *
     * @return the calls, on the connection of this client
     */
    public PalaverAsyncClient async() {
        return async;
    }

    /**
     * Returns the connection, for what the client does not offer. Stubs made with it send the client's token; they know
     * neither its timeouts nor its exceptions.
     *
     * @return the channel, which this client closes
     */
    public Channel channel() {
        return connection.channel();
    }

    /** Closes the connection and leaves all calls that are still running. Closing again does nothing. */
    @Override
    public void close() {
        connection.close();
    }

    /**
     * Creates an assistant, whose conversation then consists of its instructions alone.
     *
     * @param request the assistant and what to do when it exists
     * @return the assistant, and whether it is new
     */
    public CreateAssistantResponse createAssistant(CreateAssistantRequest request) {
        return await(async.createAssistant(request));
    }

    /**
     * Creates an assistant, with a deadline of its own.
     *
     * @param request the assistant and what to do when it exists
     * @param timeout the deadline of this call, from now; null for the client's
     * @return the assistant, and whether it is new
     */
    public CreateAssistantResponse createAssistant(CreateAssistantRequest request, Duration timeout) {
        return await(async.createAssistant(request, timeout));
    }

    /**
     * Returns the present state of an assistant. The call is repeated by itself while the server is unavailable.
     *
     * @param request the assistant
     * @return the assistant
     */
    public Assistant getAssistant(GetAssistantRequest request) {
        return await(async.getAssistant(request));
    }

    /**
     * Returns the present state of an assistant, with a deadline of its own.
     *
     * @param request the assistant
     * @param timeout the deadline of this call, from now; null for the client's
     * @return the assistant
     */
    public Assistant getAssistant(GetAssistantRequest request, Duration timeout) {
        return await(async.getAssistant(request, timeout));
    }

    /**
     * Returns the messages of an assistant, over all pages. Each page is fetched when the stream gets there, and that
     * is where it throws; it is repeated by itself while the server is unavailable.
     *
     * @param request the assistant, which messages, and in which order; {@code page_size} is how many to fetch at once
     * @return the messages, one after another
     */
    public Stream<Message> listMessages(ListMessagesRequest request) {
        return listMessages(request, null);
    }

    /**
     * Returns the messages of an assistant, over all pages, with a deadline of its own.
     *
     * @param request the assistant, which messages, and in which order; {@code page_size} is how many to fetch at once
     * @param timeout the deadline of each page, from when it is fetched; null for the client's
     * @return the messages, one after another
     */
    public Stream<Message> listMessages(ListMessagesRequest request, Duration timeout) {
        connection.checkOpen();
        var messages = new MessageIterator(request, page -> await(async.listMessages(page, timeout)));
        int characteristics = Spliterator.ORDERED | Spliterator.NONNULL | Spliterator.IMMUTABLE;
        return StreamSupport.stream(Spliterators.spliteratorUnknownSize(messages, characteristics), false);
    }

    /**
     * Deletes an assistant and all of its messages. This can't be undone.
     *
     * @param request the assistant
     */
    public void deleteAssistant(DeleteAssistantRequest request) {
        await(async.deleteAssistant(request));
    }

    /**
     * Deletes an assistant and all of its messages, with a deadline of its own.
     *
     * @param request the assistant
     * @param timeout the deadline of this call, from now; null for the client's
     */
    public void deleteAssistant(DeleteAssistantRequest request, Duration timeout) {
        await(async.deleteAssistant(request, timeout));
    }

    /**
     * Posts a user message and streams the reply: a turn. The turn is stored whole, when the reply completes, or not at
     * all. The call begins at once; its errors are thrown by the iteration over the reply.
     *
     * @param request the assistant, the message, the model and its parameters; without a {@code request_id} one is made
     * @return the reply, for a {@code try} statement
     */
    @MustBeClosed
    public Reply postUserQuery(PostUserQueryRequest request) {
        return postUserQuery(request, null);
    }

    /**
     * Posts a user message and streams the reply, with a deadline of its own.
     *
     * @param request the assistant, the message, the model and its parameters; without a {@code request_id} one is made
     * @param timeout the deadline of the whole reply, to its last event, from now; null for the client's
     * @return the reply, for a {@code try} statement
     */
    @MustBeClosed
    public Reply postUserQuery(PostUserQueryRequest request, Duration timeout) {
        connection.checkOpen();
        return new Reply(connection, PalaverAsyncClient.withRequestId(request), timeout);
    }

    /**
     * Posts a user message and returns when the turn is stored, with the whole reply. It is posted again when the
     * connection breaks.
     *
     * @param request the assistant, the message, the model and its parameters
     * @return the end of the turn, with its messages
     */
    public TurnCompleted postUserQueryUnary(PostUserQueryRequest request) {
        return await(async.postUserQueryUnary(request));
    }

    /**
     * Posts a user message and returns when the turn is stored, with a deadline of its own.
     *
     * @param request the assistant, the message, the model and its parameters
     * @param timeout the deadline of the whole turn, from now; null for the client's
     * @return the end of the turn, with its messages
     */
    public TurnCompleted postUserQueryUnary(PostUserQueryRequest request, Duration timeout) {
        return await(async.postUserQueryUnary(request, timeout));
    }

    /**
     * Ends a running turn of any caller, whatever its {@code on_disconnect} says. Nothing of the turn is stored.
     *
     * @param request the assistant and the {@code request_id} of the turn
     */
    public void cancelTurn(CancelTurnRequest request) {
        await(async.cancelTurn(request));
    }

    /**
     * Ends a running turn of any caller, with a deadline of its own.
     *
     * @param request the assistant and the {@code request_id} of the turn
     * @param timeout the deadline of this call, from now; null for the client's
     */
    public void cancelTurn(CancelTurnRequest request, Duration timeout) {
        await(async.cancelTurn(request, timeout));
    }

    private static <T> T await(CompletableFuture<T> call) {
        try {
            return call.get();
        } catch (InterruptedException e) {
            call.cancel(true);
            Thread.currentThread().interrupt();
            throw PalaverException.left("the thread was interrupted while it waited for the call", e);
        } catch (ExecutionException e) {
            throw ((PalaverException) e.getCause()).here();
        }
    }

    /** The options of a client. Each one has a default. */
    public static final class Builder {
        String target = DEFAULT_TARGET;
        boolean isTls;
        Path certificateAuthorities;
        String token;
        Duration timeout;
        Duration reconnectTimeout = DEFAULT_RECONNECT_TIMEOUT;
        Consumer<? super ManagedChannelBuilder<?>> channelConfigurator = channel -> {};

        private Builder() {}

        /**
         * Sets the server. The default is {@value PalaverClient#DEFAULT_TARGET}.
         *
         * @param target "host:port", or any other name that gRPC knows ("dns:///host:port", "unix:path")
         * @return this builder
         */
        public Builder target(String target) {
            this.target = Objects.requireNonNull(target, "target");
            return this;
        }

        /**
         * Turns TLS on, with the certificate authorities that the Java runtime trusts. The default is plaintext.
         *
         * @return this builder
         */
        public Builder tls() {
            isTls = true;
            certificateAuthorities = null;
            return this;
        }

        /**
         * Turns TLS on, with certificate authorities of your own.
         *
         * @param certificateAuthorities the PEM file of those to trust instead of the Java runtime's
         * @return this builder
         */
        public Builder tls(Path certificateAuthorities) {
            isTls = true;
            this.certificateAuthorities = Objects.requireNonNull(certificateAuthorities, "certificateAuthorities");
            return this;
        }

        /**
         * Sets a bearer token, sent as {@code authorization: Bearer <token>} with every call. Without TLS it is only sent
         * to this machine. The default is none.
         *
         * @param token the token, of visible ASCII characters
         * @return this builder
         */
        public Builder token(String token) {
            this.token = Objects.requireNonNull(token, "token");
            return this;
        }

        /**
         * Sets the deadline of every call that has none of its own. That of a reply covers all of it, to the last event.
         * The default is none.
         *
         * @param timeout the time from the beginning of a call, more than zero
         * @return this builder
         */
        public Builder timeout(Duration timeout) {
            if (timeout.isNegative() || timeout.isZero()) {
                throw new IllegalArgumentException("a timeout must be more than zero, and not " + timeout);
            }
            this.timeout = timeout;
            return this;
        }

        /**
         * Sets how long a turn may go without its connection. When that breaks, or the server stops, the turn is posted
         * again, and its caller gets each piece of the reply once. The default is 10 seconds.
         *
         * @param reconnectTimeout the time from the first break; with zero, a turn is never posted again
         * @return this builder
         */
        public Builder reconnectTimeout(Duration reconnectTimeout) {
            if (reconnectTimeout.isNegative()) {
                throw new IllegalArgumentException("a timeout must not be negative: " + reconnectTimeout);
            }
            this.reconnectTimeout = reconnectTimeout;
            return this;
        }

        /**
         * Has the channel set up further: interceptors, an executor, other limits. What it sets wins over what the client
         * sets.
         *
         * @param configurator takes the builder of the channel
         * @return this builder
         */
        public Builder configureChannel(Consumer<? super ManagedChannelBuilder<?>> configurator) {
            channelConfigurator = Objects.requireNonNull(configurator, "configurator");
            return this;
        }

        /**
         * Makes the client. The connection is opened with the first call.
         *
         * @return the client
         * @throws IllegalArgumentException a token without TLS would leave this machine, or is not made of visible ASCII
         *     characters; or the target or the certificate authorities can't be understood
         * @throws java.io.UncheckedIOException the file of certificate authorities can't be read
         */
        public PalaverClient build() {
            if (token != null && !token.matches("[!-~]([ -~]*[!-~])?")) {
                throw new IllegalArgumentException("the token must consist of visible ASCII characters");
            }
            if (token != null && !isTls && !LocalTarget.isLocal(target)) {
                throw new IllegalArgumentException(
                        "the token would be sent to \"" + target + "\" in the clear: use TLS");
            }
            return new PalaverClient(this);
        }
    }
}
