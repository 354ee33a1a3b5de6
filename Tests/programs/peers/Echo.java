import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Random;

/** An echo server (blocking threads, or one selector) and a client that checks what comes back.
 *
 *  Echo threads PORT | Echo selector PORT | Echo client PORT CONNECTIONS BYTES
 */
public class Echo {
    static final InetAddress LOOPBACK = InetAddress.getLoopbackAddress();

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        switch (arguments[0]) {
            case "threads" -> threads(port);
            case "selector" -> selector(port);
            default -> client(port, Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]));
        }
    }

    static void threads(int port) throws Exception {
        ServerSocket listener = new ServerSocket(port, 50, LOOPBACK);
        while (true) {
            Socket connection = listener.accept();
            new Thread(() -> {
                try (connection) {
                    connection.getInputStream().transferTo(connection.getOutputStream());
                } catch (Exception error) {
                    error.printStackTrace();
                }
            }).start();
        }
    }

    /** Every key owns one buffer; it waits for writability whenever the buffer could not be written whole. */
    static void selector(int port) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open().bind(new InetSocketAddress(LOOPBACK, port));
        listener.configureBlocking(false).register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel connection = listener.accept();
                    connection.configureBlocking(false).register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(50000));
                } else {
                    echo(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void echo(SelectionKey key) throws Exception {
        SocketChannel connection = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        if (key.isReadable() && connection.read(buffer) < 0) {
            connection.close();
            return;
        }
        buffer.flip();
        connection.write(buffer);
        key.interestOps(buffer.hasRemaining() ? SelectionKey.OP_WRITE : SelectionKey.OP_READ);
        buffer.compact();
    }

    static void client(int port, int connections, int length) throws Exception {
        byte[][] answers = new byte[connections][];
        Thread[] threads = new Thread[connections];
        for (int number = 0; number < connections; number++) {
            int connection = number;
            threads[number] = new Thread(() -> {
                try {
                    answers[connection] = exchange(port, connection, length);
                } catch (Exception error) {
                    error.printStackTrace();
                }
            });
            threads[number].start();
        }
        MessageDigest all = MessageDigest.getInstance("SHA-256");
        for (int number = 0; number < connections; number++) {
            threads[number].join();
            all.update(answers[number]);
        }
        System.out.println(HexFormat.of().formatHex(all.digest()));
    }

    static byte[] exchange(int port, int number, int length) throws Exception {
        MessageDigest sent = MessageDigest.getInstance("SHA-256"), received = MessageDigest.getInstance("SHA-256");
        try (Socket connection = new Socket(LOOPBACK, port)) {
            OutputStream output = connection.getOutputStream();
            Thread sender = new Thread(() -> {
                Random source = new Random(number);
                int[] sizes = {1, 100, 5000, 200000};
                try {
                    for (int left = length; left > 0; ) {
                        byte[] part = new byte[Math.min(left, sizes[source.nextInt(sizes.length)])];
                        source.nextBytes(part);
                        sent.update(part);
                        output.write(part);
                        left -= part.length;
                    }
                    connection.shutdownOutput();
                } catch (Exception error) {
                    error.printStackTrace();
                }
            });
            sender.start();
            InputStream input = connection.getInputStream();
            byte[] part = new byte[65536];
            for (int count; (count = input.read(part)) >= 0; ) received.update(part, 0, count);
            sender.join();
        }
        byte[] digest = received.digest();
        if (!MessageDigest.isEqual(digest, sent.digest())) throw new Exception("connection " + number + " came back different");
        return digest;
    }
}
