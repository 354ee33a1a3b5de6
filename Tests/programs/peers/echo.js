// An echo server, and a client that checks what comes back.
//
//     echo.js server PORT | echo.js client PORT CONNECTIONS BYTES
const crypto = require("crypto");
const net = require("net");

const [role, port, connections, length] = [process.argv[2], ...process.argv.slice(3).map(Number)];

// The same bytes in every run: each block is the digest of a counter.
function* blocks(number) {
    for (let counter = 0; ; counter++) {
        yield crypto.createHash("sha512").update(`${number} ${counter}`).digest();
    }
}

function exchange(number) {
    return new Promise((resolve, reject) => {
        const connection = net.connect(port, "127.0.0.1");
        const sent = crypto.createHash("sha256"), received = crypto.createHash("sha256");
        const source = blocks(number);
        let left = length, round = 0;
        function send() {
            while (left > 0) {
                const count = Math.min(left, [1, 64, 5000, 100000][round++ % 4]);
                const part = Buffer.alloc(count, source.next().value);
                sent.update(part);
                left -= count;
                if (!connection.write(part)) return connection.once("drain", send);
            }
            connection.end();
        }
        connection.on("connect", send);
        connection.on("error", reject);
        connection.on("data", (part) => received.update(part));
        connection.on("close", () => {
            const digest = received.digest("hex");
            if (digest === sent.digest("hex")) resolve(digest);
            else reject(new Error(`connection ${number} came back different`));
        });
    });
}

if (role === "server") {
    net.createServer({ allowHalfOpen: true }, (connection) => connection.pipe(connection)).listen(port, "127.0.0.1");
} else {
    Promise.all([...Array(connections).keys()].map(exchange)).then((answers) => {
        console.log(crypto.createHash("sha256").update(answers.join()).digest("hex"));
    });
}
