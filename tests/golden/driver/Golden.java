import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.PathMatcher;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * Runs the cases on Kafka Streams' own TopologyTestDriver and writes what it did.
 *
 * <p>Arguments: the folder `tests/golden`, a folder for temporary state, the hash of the driver's sources, and a pattern
 * of the names of cases. Only with the pattern `*` are the corpora and the vocabulary written too.
 */
public final class Golden {

    static final ObjectMapper JSON = new ObjectMapper();
    static final JsonNodeFactory NODES = JsonNodeFactory.instance;

    private Golden() {}

    public static void main(String[] arguments) throws IOException {
        Path root = Path.of(arguments[0]);
        Path state = Path.of(arguments[1]);
        PathMatcher matcher = FileSystems.getDefault().getPathMatcher("glob:" + arguments[3] + ".json");
        int made = 0;
        for (Path path : sorted(root.resolve("cases"))) {
            if (!matcher.matches(path.getFileName())) {
                continue;
            }
            made += 1;
            try {
                ObjectNode expected = new CaseRun(JSON.readTree(path.toFile()), state).run();
                ObjectNode whole = headed("case_sha256", Files.readAllBytes(path));
                whole.setAll(expected);
                write(root, path.getFileName(), whole);
            } catch (RuntimeException error) {
                throw new IllegalStateException("case " + path.getFileName() + ": " + error.getMessage(), error);
            }
        }
        System.out.println(made + " cases, Kafka Streams " + AppInfoParser.getVersion());
        if (arguments[3].equals("*")) {
            write(root, Path.of("driver.json"), vocabulary(arguments[2]));
            for (String name : List.of("partitions", "serdes")) {
                byte[] corpus = Files.readAllBytes(root.resolve("corpus").resolve((name.equals("serdes") ? name : "keys") + ".json"));
                ObjectNode whole = headed("corpus_sha256", corpus);
                whole.set("entries", name.equals("serdes") ? Corpora.serdes(JSON.readTree(corpus)) : Corpora.partitions(JSON.readTree(corpus)));
                write(root, Path.of(name + ".json"), whole);
            }
        }
    }

    private static List<Path> sorted(Path folder) throws IOException {
        try (Stream<Path> paths = Files.list(folder)) {
            return paths.filter(path -> path.toString().endsWith(".json")).sorted(Comparator.naturalOrder()).toList();
        }
    }

    private static ObjectNode headed(String member, byte[] content) {
        ObjectNode whole = NODES.objectNode();
        whole.put(member, sha256(content));
        whole.put("kafka_streams", AppInfoParser.getVersion());
        return whole;
    }

    private static String sha256(byte[] content) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error);
        }
    }

    private static ObjectNode vocabulary(String sourcesHash) {
        ObjectNode whole = NODES.objectNode();
        whole.put("driver_sha256", sourcesHash);
        whole.put("kafka_streams", AppInfoParser.getVersion());
        ObjectNode operations = whole.putObject("operations");
        TopologyMaker.OPERATIONS.forEach((name, members) -> {
            ObjectNode operation = operations.putObject(name);
            operation.set("needed", names(members.get(0)));
            operation.set("allowed", names(members.get(1)));
        });
        ObjectNode functions = whole.putObject("functions");
        functions.set("predicate", names(Functions.PREDICATES.keySet()));
        functions.set("value mapper", names(Functions.VALUE_MAPPERS.keySet()));
        functions.set("flat value mapper", names(Functions.FLAT_VALUE_MAPPERS.keySet()));
        functions.set("mapper", names(Functions.MAPPERS.keySet()));
        functions.set("flat mapper", names(Functions.FLAT_MAPPERS.keySet()));
        functions.set("key selector", names(Functions.KEY_SELECTORS.keySet()));
        functions.set("reducer", names(Functions.REDUCERS.keySet()));
        functions.set("aggregator", names(Functions.AGGREGATORS.keySet()));
        functions.set("joiner", names(Functions.JOINERS.keySet()));
        functions.set("processor", names(Processors.KINDS.keySet()));
        whole.set("reads", names(StoreReader.READS.keySet()));
        return whole;
    }

    private static ArrayNode names(Iterable<String> values) {
        ArrayNode names = NODES.arrayNode();
        values.forEach(names::add);
        return names;
    }

    /** Members of the document one to a line, and of its lists and maps one entry to a line: differences stay readable. */
    private static void write(Path root, Path name, ObjectNode whole) throws IOException {
        StringBuilder text = new StringBuilder("{\n");
        Iterator<Map.Entry<String, JsonNode>> members = whole.properties().iterator();
        while (members.hasNext()) {
            Map.Entry<String, JsonNode> member = members.next();
            text.append("  ").append(JSON.writeValueAsString(member.getKey())).append(": ");
            JsonNode value = member.getValue();
            if (value.isArray() && !value.isEmpty()) {
                text.append("[\n");
                for (int i = 0; i < value.size(); i++) {
                    text.append("    ").append(line(value.get(i))).append(i + 1 < value.size() ? ",\n" : "\n");
                }
                text.append("  ]");
            } else if (value.isObject() && value.size() > 1) {
                text.append("{\n");
                Iterator<Map.Entry<String, JsonNode>> entries = value.properties().iterator();
                while (entries.hasNext()) {
                    Map.Entry<String, JsonNode> entry = entries.next();
                    text.append("    ").append(JSON.writeValueAsString(entry.getKey())).append(": ").append(line(entry.getValue()));
                    text.append(entries.hasNext() ? ",\n" : "\n");
                }
                text.append("  }");
            } else {
                text.append(line(value));
            }
            text.append(members.hasNext() ? ",\n" : "\n");
        }
        Files.write(root.resolve("expected").resolve(name), text.append("}\n").toString().getBytes(StandardCharsets.UTF_8));
    }

    /** One line of JSON with blanks after commas and colons. */
    private static String line(JsonNode value) throws IOException {
        if (value.isArray()) {
            StringBuilder text = new StringBuilder("[");
            for (JsonNode one : value) {
                text.append(text.length() > 1 ? ", " : "").append(line(one));
            }
            return text.append("]").toString();
        } else if (value.isObject()) {
            StringBuilder text = new StringBuilder("{");
            Iterator<Map.Entry<String, JsonNode>> entries = value.properties().iterator();
            while (entries.hasNext()) {
                Map.Entry<String, JsonNode> entry = entries.next();
                text.append(text.length() > 1 ? ", " : "").append(JSON.writeValueAsString(entry.getKey())).append(": ");
                text.append(line(entry.getValue()));
            }
            return text.append("}").toString();
        }
        return JSON.writeValueAsString(value);
    }

    /** The members of <i>record</i> that are not among <i>known</i>. */
    static TreeSet<String> unknown(JsonNode record, List<String> known) {
        TreeSet<String> names = new TreeSet<>();
        record.fieldNames().forEachRemaining(names::add);
        known.forEach(names::remove);
        return names;
    }
}
