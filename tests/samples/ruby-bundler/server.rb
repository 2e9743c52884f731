require "greeting"

$stdout.sync = true
trap("TERM") { exit }
Greeting.serve(Integer(ENV.fetch("PORT", "5000")))
