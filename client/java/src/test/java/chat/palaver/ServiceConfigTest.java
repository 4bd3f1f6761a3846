package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertEquals;

import chat.palaver.support.Vectors;
import com.google.gson.Gson;
import java.util.Map;
import org.junit.jupiter.api.Test;

class ServiceConfigTest {
    @Test
    void allLanguagesUseTheSameServiceConfig() {
        assertEquals(new Gson().fromJson(Vectors.json(Vectors.SERVICE_CONFIG), Map.class), ServiceConfig.VALUE);
    }
}
