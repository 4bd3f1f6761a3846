package chat.palaver;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import chat.palaver.v1.AssistantServiceGrpc;
import chat.palaver.v1.AssistantServiceGrpc.AssistantServiceStub;
import io.grpc.ChannelCredentials;
import io.grpc.ConnectivityState;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;

/** What all calls of a client share: the channel, the defaults, and the list of what is going on. */
final class Connection {
    // The contract keeps a page and a turn below 4 MiB. gRPC's default limit is exactly that, which leaves no room.
    private static final int MAX_RESPONSE_BYTES = 8 * 1024 * 1024;
    // A model may think for a long time without a word; pings tell a silent server from one that is gone.
    private static final long KEEPALIVE_SECONDS = 30;
    private static final long KEEPALIVE_TIMEOUT_SECONDS = 10;
    private static final long SHORTEST_BACKOFF_NANOS = MILLISECONDS.toNanos(200);
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    /** Something that goes on until it is over by itself or the client is closed. */
    interface Activity {
        void abort(PalaverException error);
    }

    private final ManagedChannel channel;
    private final Duration timeout;
    private final Duration reconnectTimeout;
    private final Set<Activity> activities = ConcurrentHashMap.newKeySet();
    private final AtomicLong backoffEnded = new AtomicLong(System.nanoTime() - SHORTEST_BACKOFF_NANOS);
    private volatile boolean isClosed;

    /** Opens a channel as the builder says, which describes its options. */
    Connection(PalaverClient.Builder options) {
        timeout = options.timeout;
        reconnectTimeout = options.reconnectTimeout;
        ManagedChannelBuilder<?> builder = newChannelBuilder(options)
                .userAgent("palaver-java/" + version())
                .defaultServiceConfig(ServiceConfig.VALUE)
                .maxInboundMessageSize(MAX_RESPONSE_BYTES)
                .keepAliveTime(KEEPALIVE_SECONDS, SECONDS)
                .keepAliveTimeout(KEEPALIVE_TIMEOUT_SECONDS, SECONDS);
        if (options.token != null) {
            // gRPC refuses its own call credentials on any plaintext channel, this machine's included.
            Metadata headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + options.token);
            builder.intercept(MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        if (LocalTarget.isLocal(options.target)) {
            builder.proxyDetector(address -> null); // the Java runtime may be set up to use one even for this machine
        }
        options.channelConfigurator.accept(builder);
        channel = builder.build();
    }

    ManagedChannel channel() {
        return channel;
    }

    /**
     * Returns the deadline of a call that begins now, null for none.
     *
     * @param callTimeout the one that the caller gave, null for the client's
     */
    Deadline deadline(Duration callTimeout) {
        Duration effective = callTimeout == null ? timeout : callTimeout;
        long nanos = effective == null ? Long.MAX_VALUE : NANOSECONDS.convert(effective);
        Deadline own = nanos == Long.MAX_VALUE ? null : Deadline.after(nanos, NANOSECONDS);
        Deadline inherited = Context.current().getDeadline(); // gRPC keeps it by itself; posting again must know of it
        if (inherited == null) {
            return own;
        }
        return own == null ? inherited : inherited.minimum(own);
    }

    /** Returns how often a turn with this deadline is posted. */
    Attempts attempts(Deadline deadline) {
        return new Attempts(deadline, reconnectTimeout, Deadline.getSystemTicker());
    }

    /** Returns the stub for one call. */
    AssistantServiceStub stub(Deadline deadline) {
        endBackoff();
        return AssistantServiceGrpc.newStub(channel).withDeadline(deadline);
    }

    void begin(Activity activity) {
        activities.add(activity);
        if (isClosed) { // perhaps too late for `close` to see it
            activity.abort(closed());
        }
    }

    void end(Activity activity) {
        activities.remove(activity);
    }

    /**
     * Refuses to begin what can't succeed.
     *
     * @throws IllegalStateException the client is closed
     */
    void checkOpen() {
        if (isClosed) {
            throw new IllegalStateException("the client is closed");
        }
    }

    void close() {
        isClosed = true;
        activities.forEach(activity -> activity.abort(closed()));
        channel.shutdownNow();
    }

    private static PalaverException closed() {
        return PalaverException.left("the client was closed", null);
    }

    /** Runs a task after a pause, unless the future that it returns is cancelled before. */
    static Future<?> after(Duration pause, Runnable task) {
        var timer = new CompletableFuture<Void>().completeOnTimeout(null, NANOSECONDS.convert(pause), NANOSECONDS);
        var unused = timer.thenRunAsync(task); // not on the timer's own thread, which all of the JVM shares
        return timer;
    }

    /**
     * Has a channel that waits before connecting again do it now. Nobody can set these pauses in gRPC for Java, and they
     * grow to two minutes, which are for servers that are down and not for those that are replaced.
     */
    private void endBackoff() {
        long now = System.nanoTime();
        long last = backoffEnded.get();
        if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE
                && now - last >= SHORTEST_BACKOFF_NANOS
                && backoffEnded.compareAndSet(last, now)) {
            channel.resetConnectBackoff();
        }
    }

    private static ManagedChannelBuilder<?> newChannelBuilder(PalaverClient.Builder options) {
        ChannelCredentials credentials = credentials(options);
        try {
            return Grpc.newChannelBuilder(options.target, credentials);
        } catch (RuntimeException e) { // of which class, is up to the transport that can't make anything of them
            throw new IllegalArgumentException(e.getMessage(), e);
        }
    }

    private static ChannelCredentials credentials(PalaverClient.Builder options) {
        if (!options.isTls) {
            return InsecureChannelCredentials.create();
        }
        if (options.certificateAuthorities == null) {
            return TlsChannelCredentials.create();
        }
        try {
            return TlsChannelCredentials.newBuilder()
                    .trustManager(options.certificateAuthorities.toFile())
                    .build();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static String version() {
        try (InputStream resource = Connection.class.getResourceAsStream("client.properties")) {
            Properties properties = new Properties();
            properties.load(resource);
            return properties.getProperty("version");
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
