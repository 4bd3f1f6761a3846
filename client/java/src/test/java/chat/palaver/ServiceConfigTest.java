package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.google.gson.Gson;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;

class ServiceConfigTest {
    @Test
    void itIsTheOneOfAllLanguages() throws Exception {
        String shared = Files.readString(Path.of("../python/palaver/service_config.json"));
        assertEquals(new Gson().fromJson(shared, Map.class), ServiceConfig.VALUE);
    }
}
