import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TestOutputTopic;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.TopologyDescription;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.errors.LogAndContinueExceptionHandler;
import org.apache.kafka.streams.errors.LogAndContinueProcessingExceptionHandler;
import org.apache.kafka.streams.test.TestRecord;

/** One case: makes its topology, pipes its input record by record, and returns what came out. */
final class CaseRun {

    private final JsonNode given;
    private final Properties config = new Properties();
    private final ObjectNode expected = Golden.NODES.objectNode();

    CaseRun(JsonNode given, Path state) {
        this.given = given;
        check(given, "description", "config", "topology", "input", "stores");
        JsonNode settings = given.path("config");
        check(settings, "optimize", "on_bad_record", "on_processing_error");
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, "golden");
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "unused:1");
        config.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        config.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_OUTER_JOIN_SPURIOUS_RESULTS_FIX, 0L);
        config.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);
        if (settings.path("optimize").booleanValue()) {
            config.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        }
        if (settings.path("on_bad_record").asText().equals("skip")) {
            config.put(StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueExceptionHandler.class);
        }
        if (settings.path("on_processing_error").asText().equals("skip")) {
            config.put(StreamsConfig.PROCESSING_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueProcessingExceptionHandler.class);
        }
    }

    private static void check(JsonNode record, String... known) {
        Set<String> unknown = Golden.unknown(record, List.of(known));
        if (!unknown.isEmpty()) {
            throw new IllegalArgumentException("unknown members " + unknown);
        }
    }

    ObjectNode run() {
        TopologyMaker maker;
        Topology topology;
        try {
            maker = new TopologyMaker(given.get("topology"));
            topology = maker.builder.build(config);
        } catch (RuntimeException error) {
            if (!given.get("input").isEmpty()) {
                throw error; // A case of a topology that is refused has no input; any other has a mistake.
            }
            expected.put("topology_error", error.getClass().getSimpleName());
            return expected;
        }
        ObjectNode topics = expected.putObject("topics");
        maker.sinks.forEach((topic, types) -> {
            ObjectNode one = topics.putObject(topic);
            one.put("key", types.key().name()).put("value", types.value().name());
        });
        expected.put("repartition_topics", repartitionTopics(topology).size());
        try (TopologyTestDriver driver = new TopologyTestDriver(topology, config, Instant.EPOCH)) {
            if (runSteps(driver, maker)) {
                ArrayNode stores = expected.putArray("stores");
                for (JsonNode read : given.path("stores")) {
                    stores.add(StoreReader.read(driver, maker.stores, read));
                }
            }
        }
        return expected;
    }

    /** Returns whether no step failed. */
    private boolean runSteps(TopologyTestDriver driver, TopologyMaker maker) {
        Map<String, TestInputTopic<byte[], byte[]>> inputs = new HashMap<>();
        maker.sources.keySet().forEach(topic -> inputs.put(
            topic, driver.createInputTopic(topic, new ByteArraySerializer(), new ByteArraySerializer())));
        ArrayNode steps = expected.putArray("steps");
        double dropped = dropped(driver);
        for (JsonNode input : given.get("input")) {
            ObjectNode step = steps.addObject();
            try {
                pipe(driver, inputs, maker, input);
            } catch (RuntimeException error) {
                step.put("error", kind(error));
                return false;
            }
            ObjectNode outputs = step.putObject("outputs");
            maker.sinks.forEach((topic, types) -> {
                ArrayNode records = outputs(driver, topic, types);
                if (!records.isEmpty()) {
                    outputs.set(topic, records);
                }
            });
            double now = dropped(driver);
            step.put("dropped", (long) (now - dropped));
            dropped = now;
        }
        return true;
    }

    private static void pipe(
            TopologyTestDriver driver, Map<String, TestInputTopic<byte[], byte[]>> inputs, TopologyMaker maker, JsonNode input) {
        if (input.has("advance_wall_clock_ms")) {
            check(input, "advance_wall_clock_ms");
            driver.advanceWallClockTime(Duration.ofMillis(input.get("advance_wall_clock_ms").longValue()));
            return;
        }
        check(input, "topic", "key", "key_hex", "value", "value_hex", "timestamp", "headers");
        String topic = input.get("topic").textValue();
        TopologyMaker.Types types = maker.sources.get(topic);
        RecordHeaders headers = new RecordHeaders();
        input.path("headers").properties().forEach(
            header -> headers.add(header.getKey(), header.getValue().textValue().getBytes(StandardCharsets.UTF_8)));
        inputs.get(topic).pipeInput(new TestRecord<>(
            types.key().bytesOf(input, "key"), types.value().bytesOf(input, "value"),
            headers, input.get("timestamp").longValue()));
    }

    private static ArrayNode outputs(TopologyTestDriver driver, String topic, TopologyMaker.Types types) {
        ArrayNode records = Golden.NODES.arrayNode();
        TestOutputTopic<byte[], byte[]> output =
            driver.createOutputTopic(topic, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        for (TestRecord<byte[], byte[]> record : output.readRecordsToList()) {
            ObjectNode one = records.addObject();
            byte[] key = record.key();
            types.key().put(one, "key", key == null ? null : types.key().serde().deserializer().deserialize("", key));
            types.value().put(one, "value", types.value().serde().deserializer().deserialize("", record.value()));
            one.put("timestamp", record.timestamp());
            for (Header header : record.headers()) {
                one.withObject("/headers").put(header.key(), new String(header.value(), StandardCharsets.UTF_8));
            }
        }
        return records;
    }

    private static double dropped(TopologyTestDriver driver) {
        return driver.metrics().entrySet().stream()
            .filter(metric -> metric.getKey().name().equals("dropped-records-total"))
            .mapToDouble(metric -> (Double) metric.getValue().metricValue())
            .sum();
    }

    private static String kind(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof Functions.FunctionFailed) {
                return "processing";
            } else if (cause instanceof SerializationException) {
                return "deserialization";
            }
        }
        error.printStackTrace();
        return error.getClass().getSimpleName();
    }

    private static Set<String> repartitionTopics(Topology topology) {
        Set<String> topics = new TreeSet<>();
        for (TopologyDescription.Subtopology part : topology.describe().subtopologies()) {
            for (TopologyDescription.Node node : part.nodes()) {
                if (node instanceof TopologyDescription.Sink sink && sink.topic() != null && isInternal(sink.topic())) {
                    topics.add(sink.topic());
                }
            }
        }
        return topics;
    }

    private static boolean isInternal(String topic) {
        return topic.endsWith("-repartition") || topic.contains("-FK-JOIN-SUBSCRIPTION-");
    }
}
