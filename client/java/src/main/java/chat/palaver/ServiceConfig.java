package chat.palaver;

import java.util.List;
import java.util.Map;

/**
 * The service config of the clients in all languages, in the form that gRPC for Java takes.
 *
 * <p>It balances calls over all addresses of the server and lets gRPC retry {@code GetAssistant} and {@code ListMessages}
 * while the server is unavailable. Other calls are not retried by gRPC, because a retry after a lost response can
 * do harm: {@code CreateAssistant} would fail with {@code ALREADY_EXISTS} after its own success. {@code PostUserQuery} is
 * idempotent with a {@code request_id}, which gRPC can't know; the client itself retries it.
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
