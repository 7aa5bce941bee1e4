%% OTP's supervisor, unchanged, behind two windows.
%%
%% Time: it reads the real clock in whole seconds. Before each decision the times of its
%% restarts are moved so that their ages are those of the scenario's virtual clock.
%%
%% Giving up: it exits with `shutdown`, as if it had been asked to. In the mode `abnormal`
%% the reason is `gave_up`, which is the one rule that understudy changes on purpose;
%% in the mode `plain` the reason is left as it is.
-module(oracle_supervisor).
-behaviour(gen_server).
-export([start_link/3, check/0, described/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

%% Where OTP keeps the times of its restarts; `check` looks whether that is still so.
-define(RESTARTS, 8).
-define(STOP_LIMIT, 100).
-define(LONG, 60000).

start_link(Table, Path, Team) ->
    gen_server:start_link(?MODULE, {Table, Path, Team}, []).

init({check, Flags}) ->
    supervisor:init({self, ?MODULE, {Flags, []}});
init({Flags, Specs}) when is_map(Flags) ->
    {ok, {Flags, Specs}};
init({Table, Path, {team, _, _, Strategy, Intensity, Period, Auto, _, Members}}) ->
    put(table, Table),
    put(restarts, []),
    ets:insert(Table, [{{pid, Path}, self()}, {{up, Path}, false}]),
    Flags = #{strategy => Strategy, intensity => Intensity, period => Period,
              auto_shutdown => auto(Auto)},
    Specs = [spec(Table, Path, Member) || Member <- Members],
    case supervisor:init({self, ?MODULE, {Flags, Specs}}) of
        {ok, _} = Started ->
            ets:insert(Table, {{up, Path}, true}),
            Number = ets:update_counter(Table, {starts, Path}, 1, {{starts, Path}, 0}),
            %% How the root ends is a matter of its own.
            [oracle:watch(Table, Path, Number) || lists:member($/, Path)],
            Started;
        Other ->
            Other
    end.

%% One message each, so that nothing comes between its parts.
handle_call({add, Spec}, From, State) ->
    case supervisor:handle_call({start_child, Spec}, From, State) of
        {reply, {error, already_present}, State1} ->
            {reply, ok, State2} =
                supervisor:handle_call({delete_child, maps:get(id, Spec)}, From, State1),
            supervisor:handle_call({start_child, Spec}, From, State2);
        Other ->
            Other
    end;
handle_call({drop, Id}, From, State) ->
    case supervisor:handle_call({terminate_child, Id}, From, State) of
        {reply, ok, State1} ->
            {reply, _, State2} = supervisor:handle_call({delete_child, Id}, From, State1),
            {reply, ok, State2};
        Other ->
            Other
    end;
handle_call(Request, From, State) ->
    supervisor:handle_call(Request, From, State).

handle_cast(Message, State) ->
    ended(in_time(fun(S) -> supervisor:handle_cast(Message, S) end, State)).

handle_info(Message, State) ->
    ended(in_time(fun(S) -> supervisor:handle_info(Message, S) end, State)).

terminate(Reason, State) ->
    supervisor:terminate(Reason, State).

ended({stop, shutdown, State}) ->
    Table = get(table),
    case {get(gave_up), ets:lookup(Table, mode)} of
        {true, [{mode, abnormal}]} -> {stop, gave_up, State};
        _ -> {stop, shutdown, State}
    end;
ended(Other) ->
    Other.

in_time(Decide, State) ->
    wait_for_the_middle_of_a_second(),
    Now = erlang:monotonic_time(1),
    [{now, Virtual}] = ets:lookup(get(table), now),
    Ages = [Now - (Virtual - At) || At <- get(restarts)],
    Outcome = Decide(setelement(?RESTARTS, State, Ages)),
    Kept = element(?RESTARTS, element(tuple_size(Outcome), Outcome)),
    put(restarts, [Virtual - (Now - At) || At <- Kept]),
    Outcome.

wait_for_the_middle_of_a_second() ->
    case erlang:monotonic_time(millisecond) - 1000 * erlang:monotonic_time(1) of
        Late when Late > 970 -> timer:sleep(35);
        _ -> ok
    end.

spec(Table, Above, Member) ->
    Path = Above ++ "/" ++ element(2, Member),
    described({Table, Path, Member}).

described({Table, Path, {worker, Name, Restart, Limit, Stops, Significant, _} = Worker}) ->
    #{id => Name, start => {oracle_child, start_link, [Table, Path, Worker]},
      restart => Restart, significant => Significant, shutdown => limit(Limit, Stops)};
described({Table, Path, {team, Name, Restart, _, _, _, _, Significant, _} = Team}) ->
    #{id => Name, start => {?MODULE, start_link, [Table, Path, Team]},
      restart => Restart, significant => Significant, shutdown => infinity,
      type => supervisor}.

auto(never) -> never;
auto(any) -> any_significant;
auto(all) -> all_significant.

limit(brutal, _) -> brutal_kill;
limit(infinity, _) -> infinity;
limit(seconds, hangs) -> ?STOP_LIMIT;
limit(seconds, _) -> ?LONG.

%% Fails where this OTP keeps the state of a supervisor in another shape.
check() ->
    {ok, State} = init({check, #{intensity => 77, period => 88}}),
    {77, 88, []} = {element(?RESTARTS - 2, State), element(?RESTARTS - 1, State),
                    element(?RESTARTS, State)},
    ok.
