package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Where a token may go in the clear. */
class LocalTargetTest {
    @ParameterizedTest
    @ValueSource(
            strings = {
                "localhost",
                "localhost:50051",
                "LOCALHOST:1",
                "127.0.0.1:50051",
                "127.9.8.7",
                "[::1]:50051",
                "[0:0:0:0:0:0:0:1]:1",
                "dns:///localhost:50051",
                "dns:localhost:1",
                "dns:///[::1]:1",
                "unix:socket",
                "unix:///run/socket"
            })
    void thisMachine(String target) {
        assertTrue(LocalTarget.isLocal(target));
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "palaver.example:443",
                "10.0.0.1:50051",
                "128.0.0.1",
                "[::2]:1",
                "::1",
                "",
                "localhost.example:1",
                "127.0.0.1.example:443",
                "dns://8.8.8.8/localhost:1",
                "dns://127.0.0.1/localhost:1",
                "dns:///palaver.example",
                "localhost@palaver.example:443",
                "127.0.0.1:80@palaver.example:443",
                "127.0.0.1,10.0.0.1",
                "127.0.0.1:1,10.0.0.1:1",
                "xds:///localhost",
                "ipv4:127.0.0.1:1",
                "local host",
                "1.2.3"
            })
    void perhapsAnotherMachine(String target) {
        assertFalse(LocalTarget.isLocal(target));
    }
}
