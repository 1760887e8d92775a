import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.opensearch.common.settings.Settings;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.painless.PainlessPlugin;
import org.opensearch.transport.Netty4Plugin;

/** One node of OpenSearch, with the transport and the script language that the distribution adds. Arguments: host, folder. */
class OpenSearch extends Node {
    OpenSearch(Settings settings) {
        super(InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), Path.of(settings.get("path.home")), () -> "scale"),
            List.of(Netty4Plugin.class, PainlessPlugin.class), false);
    }

    public static void main(String[] args) throws Exception {
        var node = new OpenSearch(Settings.builder().put("network.host", args[0]).put("path.home", args[1])
            .put("http.port", 9200).put("transport.port", 9300).put("transport.type", "netty4").put("http.type", "netty4")
            .put("discovery.type", "single-node").put("cluster.routing.allocation.disk.threshold_enabled", false).build());
        node.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { try { node.close(); } catch (java.io.IOException e) { } }));
        new CountDownLatch(1).await();
    }
}
