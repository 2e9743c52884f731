<?php

namespace App;

final class Router
{
    /** @return array{int, string} */
    public function answer(string $path): array
    {
        return match ($path) {
            '/' => [200, mb_strtolower('HELLO from PHP-composer') . "\n"],
            '/extensions' => [200, implode(' ', get_loaded_extensions()) . "\n"],
            default => [404, "not found\n"],
        };
    }
}
