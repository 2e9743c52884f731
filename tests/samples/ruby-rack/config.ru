run lambda { |env|
  case env["PATH_INFO"]
  when "/" then [200, { "content-type" => "text/plain" }, ["hello from ruby-rack\n"]]
  else [404, { "content-type" => "text/plain" }, ["not found\n"]]
  end
}
