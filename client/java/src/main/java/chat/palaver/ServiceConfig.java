package chat.palaver;

import java.util.List;
import java.util.Map;

/**
 * What gRPC does with the calls by itself: the service config that clients in every language use, as gRPC for Java wants
 * it.
 *
 * <p>It spreads calls over all addresses of the server, and has gRPC repeat {@code GetAssistant} and {@code ListMessages}
 * while the server is unavailable. It leaves the other calls alone, because repeating one whose reply was lost may do
 * harm: {@code CreateAssistant} would fail over its own success. {@code PostUserQuery} may be repeated when it has a
 * {@code request_id}, which gRPC can't know; this library sees to it.
 */
final class ServiceConfig {
    static final Map<String, ?> VALUE = Map.of(
            "loadBalancingConfig",
            List.of(Map.of("round_robin", Map.of())),
            "methodConfig",
            List.of(Map.of(
                    "name",
                    List.of(
                            Map.of("service", "palaver.v1.AssistantService", "method", "GetAssistant"),
                            Map.of("service", "palaver.v1.AssistantService", "method", "ListMessages")),
                    "retryPolicy",
                    Map.of(
                            "maxAttempts",
                            4.0,
                            "initialBackoff",
                            "0.2s",
                            "maxBackoff",
                            "2s",
                            "backoffMultiplier",
                            2.0,
                            "retryableStatusCodes",
                            List.of("UNAVAILABLE")))),
            "retryThrottling",
            Map.of("maxTokens", 100.0, "tokenRatio", 0.1));

    private ServiceConfig() {}
}
