import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.HexFormat;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

/** What Kafka makes of keys and values that stand alone: partitions and bytes. */
final class Corpora {

    private static final int[] COUNTS = {1, 3, 8, 32};

    private Corpora() {}

    static ArrayNode partitions(JsonNode keys) {
        ArrayNode made = Golden.NODES.arrayNode();
        for (JsonNode key : keys) {
            byte[] bytes = Type.named(key.get("type").textValue()).bytesOf(key, "value");
            ObjectNode one = made.addObject();
            one.setAll((ObjectNode) key);
            one.put("bytes", HexFormat.of().formatHex(bytes));
            one.put("murmur2", Utils.murmur2(bytes));
            ObjectNode partitions = one.putObject("partitions");
            for (int count : COUNTS) {
                partitions.put(Integer.toString(count), BuiltInPartitioner.partitionForKey(bytes, count));
            }
        }
        return made;
    }

    static ArrayNode serdes(JsonNode values) {
        ArrayNode made = Golden.NODES.arrayNode();
        for (JsonNode value : values) {
            ObjectNode one = made.addObject();
            one.setAll((ObjectNode) value);
            one.put("bytes", HexFormat.of().formatHex(typeNamed(value.get("type").textValue()).bytesOf(value, "value")));
        }
        return made;
    }

    private static Type typeNamed(String name) {
        if (name.startsWith("time_windowed<")) {
            return Type.timeWindowed(inside(name), 1); // The size is not in the bytes.
        }
        return name.startsWith("session_windowed<") ? Type.sessionWindowed(inside(name)) : Type.named(name);
    }

    private static Type inside(String name) {
        return Type.named(name.substring(name.indexOf('<') + 1, name.length() - 1));
    }
}
