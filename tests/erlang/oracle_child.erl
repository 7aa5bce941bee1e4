%% A worker as data says: starts or fails to, lives, ends as it is told, and logs all of it.
%% Processes that race cannot disturb the log: each line is written before its writer goes on.
-module(oracle_child).
-behaviour(gen_server).
-export([start_link/3, init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(START_LIMIT, 60).

start_link(Table, Path, {worker, _, _, _, Stops, _, Failing}) ->
    Number = ets:update_counter(Table, {starts, Path}, 1, {{starts, Path}, 0}),
    How = proplists:get_value(Number, Failing, works),
    %% Only a start that hangs has a limit: no other may fail because the machine is busy.
    Options = [{timeout, ?START_LIMIT} || How =:= hangs],
    gen_server:start_link(?MODULE, {Table, Path, Number, Stops, How}, Options).

init({Table, Path, Number, Stops, How}) ->
    process_flag(trap_exit, true),
    ets:insert(Table, {{pid, Path}, self()}),
    log(Table, "init", Path, Number),
    begin_with(gate(Table, Path, Number, How), {Table, Path, Number, Stops}).

begin_with(works, {Table, Path, Number, _} = State) ->
    oracle:watch(Table, Path, Number),
    {ok, State};
begin_with(raises, {Table, Path, Number, _}) ->
    log(Table, "fail", Path, Number),
    {stop, cannot_start};
begin_with(ignores, {Table, Path, Number, _}) ->
    log(Table, "ignore", Path, Number),
    ignore;
begin_with(hangs, {Table, Path, Number, _}) ->
    log(Table, "hang", Path, Number),
    ets:insert(Table, {{hangs, self()}, Path}),
    forever().

%% Held only where one supervisor waits for it: two that wait would race when released.
gate(Table, Path, Number, How) ->
    [Above, _] = string:split(Path, "/", trailing),
    case {ets:lookup(Table, gate), ets:lookup(Table, {up, Above})} of
        {[{gate, Path}], [{_, true}]} ->
            ets:delete(Table, gate),
            log(Table, "wait", Path, Number),
            ets:insert(Table, {gated, self()}),
            receive {release, fail} -> raises; {release, _} -> How end;
        _ ->
            How
    end.

handle_info(crash, {Table, Path, Number, _} = State) ->
    log(Table, "crash", Path, Number),
    {stop, crash, State};
handle_info({leave, Reason}, {Table, Path, Number, _}) ->
    log(Table, "leave", Path, Number),
    {stop, Reason, {Table, Path, Number, clean}};
handle_info(_, State) ->
    {noreply, State}.

handle_call(_, _, State) -> {noreply, State}.

handle_cast(_, State) -> {noreply, State}.

terminate(crash, _) ->
    ok;
terminate(_, {Table, Path, Number, Stops}) ->
    log(Table, "stop", Path, Number),
    case Stops of
        clean -> ok;
        slow -> timer:sleep(15);
        hangs -> forever()
    end,
    log(Table, "down", Path, Number).

log(Table, What, Path, Number) -> oracle:log(Table, What, Path, Number).

forever() -> receive nothing_that_comes -> ok end.
