// A web app without any package: Node.js answers by itself.
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const read = (name) => fs.readFileSync(path.join(__dirname, name), "utf8");
const page = read("page.html");
const style = read("style.css");

const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/style.css") {
    response.setHeader("content-type", "text/css; charset=utf-8");
    return response.end(style);
  }
  if (pathname !== "/") {
    response.statusCode = 404;
    return response.end("There is nothing here.\n");
  }
  console.log(`${request.method} ${pathname}`);
  response.setHeader("content-type", "text/html; charset=utf-8");
  response.end(page.replace("VERSION", process.version).replace("CONTAINER", process.env.DYNO ?? "your machine"));
});

server.listen(process.env.PORT ?? 5000, () => console.log(`listening on port ${server.address().port}`));

// A deploy ends the old process this way: what is under way is answered first.
process.on("SIGTERM", () => server.close(() => process.exit(0)));
