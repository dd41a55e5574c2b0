<?php
// A PHP program with an SQLite, for tests/host_process: commands as in host.c. The first argument is the class: sqlite3 or pdo.
[, $class, $extension, $uri] = $argv;
const CHILD_LIMIT_S = 30;
const COMMIT_PAUSE_US = 3000;
$connections = [];
$children = [];

function run(string $line)
{
    global $class, $extension, $uri, $connections, $children;
    [$command, $rest] = explode(' ', $line, 2) + [1 => ''];
    $newest = end($connections);
    switch ($command) {
        case 'load':
            // PDO of this version can't load extensions; what one class has loaded, all of them have.
            $loader = new SQLite3(':memory:');
            if (!$loader->loadExtension(basename($extension))) {
                throw new Exception($loader->lastErrorMsg());
            }
            $loader->close();
            return '';
        case 'open':
            if ($class === 'pdo') {
                $connection = new PDO('sqlite:' . $uri, null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_TIMEOUT => 20]);
            } else {
                $connection = new SQLite3($uri);
                $connection->enableExceptions(true);
                $connection->busyTimeout(20000);
            }
            $connections[] = $connection;
            return '';
        case 'sql':
            return $class === 'pdo' ? $newest->query($rest)->fetchColumn() : $newest->querySingle($rest);
        case 'close':
            // A PDO connection is closed with its last reference.
            if ($class === 'sqlite3') {
                $newest->close();
            }
            $newest = null;
            array_pop($connections);
            return '';
        case 'fork':
            $pid = pcntl_fork();
            if ($pid === 0) {
                pcntl_alarm(CHILD_LIMIT_S);
                $children = [];
                try {
                    foreach (explode(' ;; ', $rest) as $line) {
                        run($line);
                    }
                } catch (Throwable $error) {
                    fwrite(STDERR, 'child: ' . $error->getMessage() . "\n");
                    exit(3);
                }
                exit(0);
            }
            $children[] = $pid;
            return $pid;
        case 'reap':
            $codes = [];
            foreach ($children as $pid) {
                pcntl_waitpid($pid, $status);
                $codes[] = pcntl_wifexited($status) ? pcntl_wexitstatus($status) : -pcntl_wtermsig($status);
            }
            $children = [];
            return implode(',', $codes);
        case 'exec':
            pcntl_exec('/bin/sh', ['-c', $rest]);
            throw new Exception('exec failed');
        case 'exit':
            exit(0);
        case '_exit':
            // PHP has no _exit: this ends as abruptly.
            posix_kill(getmypid(), SIGKILL);
            return '';
        case 'sleep':
            sleep((int) $rest);
            return '';
        case 'term':
            posix_kill(getmypid(), SIGTERM);
            usleep(1000000);
            throw new Exception('still alive');
        case 'kill':
            posix_kill(getmypid(), SIGKILL);
            return '';
        case 'work':
            [$who, $count] = explode(' ', $rest);
            for ($n = 0; $n < $count; $n++) {
                run("sql INSERT INTO t VALUES($who, randomblob(2000))");
                usleep(COMMIT_PAUSE_US);
            }
            return '';
        case 'state':
            return 'locale=' . setlocale(LC_ALL, 0);
    }
    throw new Exception("unknown command $command");
}

umask(027);
while (($line = fgets(STDIN)) !== false) {
    try {
        $answer = run(rtrim($line, "\n"));
        fwrite(STDOUT, "ok $answer\n");
    } catch (Throwable $error) {
        fwrite(STDOUT, 'error ' . $error->getMessage() . "\n");
    }
}
