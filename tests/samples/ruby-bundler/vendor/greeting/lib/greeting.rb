require "socket"

# A server small enough to need no other gem.
module Greeting
  def self.serve(port)
    server = TCPServer.new("0.0.0.0", port)
    puts "listening on #{port}"
    loop do
      Thread.new(server.accept) do |client|
        path = client.gets.to_s.split[1]
        nil until client.gets.to_s.chomp.empty?
        status, body = path == "/" ? ["200 OK", "hello from ruby-bundler #{RUBY_VERSION}\n"] : ["404 Not Found", "not found\n"]
        client.write "HTTP/1.1 #{status}\r\nContent-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}"
        client.close
      end
    end
  end
end
