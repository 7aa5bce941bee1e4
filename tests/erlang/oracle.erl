%% Plays scenarios on Erlang/OTP and prints what happened: one line for each step.
%%
%% Every scenario has a process and a table of its own, so that many run side by side. A
%% step is over when the tree is at rest: every process waits with an empty mailbox, every
%% listed child is alive, every end is recorded, and two looks see the same. Only a start
%% that is held, and the supervisors that wait for it, may be busy.
-module(oracle).
-export([main/1, log/2, log/4, watch/3, note/2]).

-define(LOOK, 1).
-define(PATIENCE, 10000).

main([File]) ->
    ok = oracle_supervisor:check(),
    process_flag(trap_exit, false),
    logger:set_primary_config(level, error),
    logger:remove_handler(default),
    ok = logger:add_handler(?MODULE, ?MODULE, #{}),
    {ok, [{Mode, AtOnce, Scenarios}]} = file:consult(File),
    run(Mode, AtOnce, Scenarios, 0),
    io:format("end~n"),
    halt(0).

run(_, _, [], 0) ->
    ok;
run(Mode, AtOnce, [Scenario | Rest], Running) when Running < AtOnce ->
    Printer = self(),
    spawn_monitor(fun() -> Printer ! {lines, play(Mode, Scenario)} end),
    run(Mode, AtOnce, Rest, Running + 1);
run(Mode, AtOnce, Rest, Running) ->
    receive
        {lines, Lines} ->
            io:put_chars(Lines),
            run(Mode, AtOnce, Rest, Running);
        {'DOWN', _, process, _, normal} ->
            run(Mode, AtOnce, Rest, Running - 1);
        {'DOWN', _, process, _, Reason} ->
            io:format("broken ~0p~n", [Reason]),
            halt(1)
    end.

%% -- what the processes of a scenario tell --------------------------------------

%% A handler of `logger`, called in the process that reports.
log(#{msg := {report, #{label := {supervisor, shutdown}, report := Report}}}, _) ->
    case proplists:get_value(reason, Report) of
        reached_max_restart_intensity -> put(gave_up, true);
        _ -> ok
    end;
log(_, _) ->
    ok.

log(Table, What, Path, Number) ->
    note(Table, io_lib:format("~s ~s#~b", [What, Path, Number])).

note(Table, Text) ->
    Seq = ets:update_counter(Table, seq, 1),
    ets:insert(Table, {{log, Seq}, lists:flatten(Text)}).

%% Its start succeeds: record how this process ends.
watch(Table, Path, Number) ->
    ets:insert(Table, {{life, Path, Number}, self()}),
    [{recorder, Recorder}] = ets:lookup(Table, recorder),
    Recorder ! {watch, self(), Path, Number},
    receive {watched, Recorder} -> ok end.

record(Table) ->
    receive
        {watch, Pid, Path, Number} ->
            put(erlang:monitor(process, Pid), {Path, Number}),
            Pid ! {watched, self()};
        {'DOWN', Monitor, process, _, Reason} ->
            {Path, Number} = erase(Monitor),
            ets:delete(Table, {life, Path, Number}),
            ets:insert(Table, {{ended, Path, Number}, ending(Reason)})
    end,
    record(Table).

ending(normal) -> "clean";
ending(shutdown) -> "clean";
ending(killed) -> "killed";
ending(gave_up) -> "gave up";
ending(_) -> "crashed".

%% -- one scenario ---------------------------------------------------------------

play(Mode, {Number, Tree, Steps}) ->
    process_flag(trap_exit, true),
    Table = ets:new(scenario, [public, ordered_set]),
    Recorder = spawn_link(fun() -> record(Table) end),
    ets:insert(Table, [{seq, 0}, {now, 0}, {mode, Mode}, {recorder, Recorder}]),
    Name = element(2, Tree),
    Root = case oracle_supervisor:start_link(Table, Name, Tree) of
               {ok, Pid} -> Pid;
               {error, _} -> none
           end,
    put(root, case Root of none -> "start failed"; _ -> "up" end),
    First = moment(Table, Root, Name, Number, -1),
    [First | steps(Table, Root, Name, Number, Steps, 0)].

steps(Table, Root, Name, Number, [Step | Rest], Index) ->
    case get(root) of
        "up" ->
            ets:insert(Table, {now, element(1, Step)}),
            act(Table, Root, Index, Step),
            Line = moment(Table, Root, Name, Number, Index),
            [Line | steps(Table, Root, Name, Number, Rest, Index + 1)];
        _ ->
            []
    end;
steps(_, _, _, _, [], _) ->
    [].

act(Table, _, _, {_, crash, Path}) -> to(Table, Path, fun(Pid) -> Pid ! crash end);
act(Table, _, _, {_, kill, Path}) -> to(Table, Path, fun(Pid) -> exit(Pid, kill) end);
act(Table, _, _, {_, leave, Path, Reason}) ->
    to(Table, Path, fun(Pid) -> Pid ! {leave, Reason} end);
act(Table, _, _, {_, hold, Path}) ->
    ets:insert(Table, {gate, Path}),
    to(Table, Path, fun(Pid) -> Pid ! crash end);
act(Table, _, _, {_, release, How}) ->
    ets:delete(Table, gate),
    case ets:take(Table, gated) of
        [{gated, Pid}] -> Pid ! {release, How};
        [] -> ok
    end;
act(Table, _, Index, {_, start, Path, Member}) ->
    Spec = oracle_supervisor:described({Table, Path, Member}),
    command(Table, Index, above(Path), {add, Spec});
act(Table, _, Index, {_, stop, Path}) ->
    command(Table, Index, above(Path), {drop, lists:last(string:split(Path, "/", all))});
act(_, Root, _, {_, halt}) ->
    put(halting, true),
    exit(Root, shutdown).

to(Table, Path, Do) ->
    case alive(Table, Path) of
        none -> ets:insert(Table, {{done, -1}, "nobody"});
        Pid -> Do(Pid)
    end.

command(Table, Index, Above, Request) ->
    case alive(Table, Above) of
        none ->
            ets:insert(Table, {{done, Index}, "refused"});
        Supervisor ->
            ets:insert(Table, {{open, Index}, Supervisor}),
            spawn_link(fun() -> ask(Table, Index, Supervisor, Request) end)
    end.

ask(Table, Index, Supervisor, Request) ->
    Outcome = try gen_server:call(Supervisor, Request, infinity) of
                  ok -> "ok";
                  {ok, _} -> "ok";
                  {error, not_found} -> "refused";
                  {error, {already_started, _}} -> "refused";
                  {error, _} -> "failed"
              catch
                  exit:_ -> "refused"
              end,
    ets:insert(Table, {{done, Index}, Outcome}),
    ets:delete(Table, {open, Index}).

alive(Table, Path) ->
    case ets:lookup(Table, {pid, Path}) of
        [{_, Pid}] -> case is_process_alive(Pid) of true -> Pid; false -> none end;
        [] -> none
    end.

above(Path) ->
    [Above, _] = string:split(Path, "/", trailing),
    Above.

%% -- rest -----------------------------------------------------------------------

moment(Table, Root, Name, Number, Index) ->
    Deadline = erlang:monotonic_time(millisecond) + ?PATIENCE,
    Tree = rest(Table, Root, Name, none, 0, Deadline),
    %% Our supervisors tell how a life ended when they deal with it, and nobody can listen
    %% before the tree is up: so this is compared later, or not for a start that failed.
    Ended = case {Tree, Index} of
                {"held", _} -> [];
                {_, -1} -> take(Table, ended, fun(_) -> "" end), [];
                _ -> take(Table, ended, fun({{_, Path, N}, How}) ->
                                                io_lib:format("~s#~b=~s", [Path, N, How]) end)
            end,
    Texts = [take(Table, log, fun({{_, _}, Text}) -> Text end),
             Ended,
             take(Table, done, fun({{_, -1}, Text}) -> Text;
                                  ({{_, N}, Text}) -> io_lib:format("~b=~s", [N, Text]) end)],
    Joined = [lists:join("; ", Found) || Found <- Texts],
    io_lib:format("~b\t~b\t~s\t~s\t~s\t~s\t~s~n", [Number, Index | Joined] ++ [Tree, get(root)]).

take(Table, Kind, Format) ->
    Pattern = case Kind of
                  ended -> {{ended, '_', '_'}, '_'};
                  _ -> {{Kind, '_'}, '_'}
              end,
    Found = ets:match_object(Table, Pattern),
    [ets:delete(Table, element(1, Entry)) || Entry <- Found],
    [lists:flatten(Format(Entry)) || Entry <- Found].

%% Looks until the same has been seen often enough. What queues up at a held supervisor
%% cannot be seen to be complete, so that takes more looks.
rest(Table, Root, Name, Before, Same, Deadline) ->
    Look = look(Table, Root, Name),
    Enough = case Look of {_, {"held", _}} -> 4; _ -> 1 end,
    case {Look, erlang:monotonic_time(millisecond) > Deadline} of
        {_, true} ->
            "no rest: " ++ lists:flatten(io_lib:format("~0p", [ets:tab2list(Table)]));
        {busy, false} ->
            timer:sleep(?LOOK),
            rest(Table, Root, Name, none, 0, Deadline);
        {{_, {Tree, _}}, _} when Look =:= Before, Same + 1 >= Enough ->
            Tree;
        _ ->
            timer:sleep(?LOOK),
            Seen = case Look of Before -> Same + 1; _ -> 0 end,
            rest(Table, Root, Name, Look, Seen, Deadline)
    end.

look(Table, Root, Name) ->
    root_ended(Table, Root),
    [{seq, Seq}] = ets:lookup(Table, seq),
    case get(root) of
        "up" ->
            case ets:member(Table, gated) of
                true -> look_at_held(Table, Seq);
                false -> look_at_all(Table, Root, Name, Seq)
            end;
        _ ->
            Done = ets:match(Table, {{life, '_', '_'}, '_'}) =:= []
                andalso ets:match(Table, {{open, '_'}, '_'}) =:= [],
            case Done of true -> {Seq, {"", 0}}; false -> busy end
    end.

root_ended(_, none) ->
    ok;
root_ended(_, Root) ->
    receive
        {'EXIT', Root, Reason} ->
            put(root, case {Reason, get(halting)} of
                          {gave_up, _} -> "gave up";
                          {shutdown, _} -> "ended";
                          {Other, _} -> lists:flatten(io_lib:format("~0p", [Other]))
                      end)
    after 0 ->
        ok
    end.

look_at_all(Table, Root, Name, Seq) ->
    Lives = ets:match(Table, {{life, '_', '_'}, '$1'}),
    Open = ets:match(Table, {{open, '_'}, '_'}),
    case Open =:= [] andalso lists:all(fun([Pid]) -> idle(Pid) end, Lives) of
        true ->
            try {Seq, {lists:flatten(shown(Root, Name)), 0}}
            catch throw:busy -> busy; exit:_ -> busy
            end;
        false ->
            busy
    end.

%% The lives under a held start: idle, or supervisors that wait for a start themselves.
look_at_held(Table, Seq) ->
    Lives = ets:match(Table, {{life, '_', '_'}, '$1'}),
    Calm = lists:all(fun([Pid]) -> idle(Pid) orelse waits_for_start(Pid) end, Lives),
    Open = ets:match(Table, {{open, '_'}, '$1'}),
    Queued = lists:all(fun([Pid]) -> waits_for_start(Pid) end, Open),
    Hang = [Pid || [Pid] <- ets:match(Table, {{hangs, '$1'}, '_'}), is_process_alive(Pid)],
    case Calm andalso Queued andalso Hang =:= [] of
        true -> {Seq, {"held", [process_info(Pid, message_queue_len) || [Pid] <- Lives]}};
        false -> busy
    end.

idle(Pid) ->
    case process_info(Pid, [status, current_function, message_queue_len]) of
        [{status, waiting}, {_, {gen_server, loop, _}}, {_, 0}] -> true;
        _ -> false
    end.

waits_for_start(Pid) ->
    case process_info(Pid, [status, current_function]) of
        [{status, waiting}, {_, {proc_lib, sync_start_link, _}}] -> true;
        _ -> false
    end.

shown(Pid, Name) ->
    Inner = [shown_child(Child) || Child <- lists:reverse(listed(Pid))],
    [Name, "(", lists:join(" ", Inner), ")"].

%% It may have become busy since it was looked at, for as long as a start is held.
listed(Pid) -> gen_server:call(Pid, which_children, 300).

shown_child({_, restarting, _, _}) -> throw(busy);
shown_child({Name, undefined, _, _}) -> [Name, "-"];
shown_child({Name, Pid, Kind, _}) ->
    case {is_process_alive(Pid), Kind} of
        {false, _} -> throw(busy);
        {true, worker} -> [Name, "+"];
        {true, supervisor} -> shown(Pid, Name)
    end.
